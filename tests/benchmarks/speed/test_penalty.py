import json

from benchmarks.speed.penalty import measure_penalty


def test_measures_every_candidate_on_the_same_work():
    found = measure_penalty(rounds=2, batch_size=4, image_size=32, width=0.05)
    assert json.loads(json.dumps(found)) == found
    assert list(found["results"]) == ["naive", "gradient", "proximal", "avalanche"]
    assert found["results"]["naive"]["ratio"] == 1.0
    for result in found["results"].values():
        assert result["seconds"] > 0
        assert result["rounds"] == 2
    assert found["batch_size"] == 4
