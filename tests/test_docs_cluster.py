"""The commands of docs/cluster.md are ones that the programs know, and its scripts can be read."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from benchmarks.__main__ import _parser

TEXT = (Path(__file__).parents[1] / "docs" / "cluster.md").read_text(encoding="utf-8")
SCRIPTS = re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL)
COMMANDS = re.findall(r"python -m benchmarks ([^#'\n]*)", "".join(SCRIPTS))


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_are_known(line):
    options = _parser().parse_args(shlex.split(line))
    assert options.study == "STUDY"


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_can_be_read(script):
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_what_the_page_says_of_defaults_is_so():
    from benchmarks import storage
    from benchmarks.dispatch import DEATHS, GRACE_SECONDS

    options = _parser().parse_args(["run", "embedded"])
    assert f"`--checkpoint-every` seconds (default {options.checkpoint_every:g})" in TEXT
    assert f"A store is a folder (default `{options.store}`)" in TEXT
    assert f"at most {GRACE_SECONDS:g} seconds" in TEXT
    assert storage.EXPIRE_SECONDS == 120.0
    assert "not renewed for two minutes" in TEXT
    assert DEATHS == 3
    assert "over which three processes die" in TEXT


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_file_of_the_cloud_is_one_that_ray_accepts():
    pytest.importorskip("ray")
    yaml = pytest.importorskip("yaml")
    from ray.autoscaler._private.util import prepare_config, validate_config

    (text,) = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
    validate_config(prepare_config(yaml.safe_load(text)))  # as `ray up` does
