import pickle

import pytest
import torch
from torchvision.models import AlexNet_Weights, alexnet

from mas_avalanche import MultiHeadAlexNet, estimate_importance


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory):
    """A file with the layout of torchvision's weights, of random numbers."""
    torch.manual_seed(1)
    net = alexnet()
    path = tmp_path_factory.mktemp("weights") / "alexnet.pth"
    torch.save(net.state_dict(), path)
    return net, path


def small(**options):
    return MultiHeadAlexNet([4, 7], image_size=32, width=0.125, **options)


def trunk_output(net, x):
    """Run torchvision's AlexNet up to its last layer."""
    return net.classifier[:-1](torch.flatten(net.avgpool(net.features(x)), 1))


def test_trunk_is_torchvisions_from_a_file(imagenet):
    net, path = imagenet
    model = MultiHeadAlexNet([3], weights=path).eval()
    net.eval()
    x = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(model.trunk(x), trunk_output(net, x), rtol=0.0, atol=0.0)
    expected = {n: p.shape for n, p in net.named_parameters() if not n.startswith("classifier.6")}
    assert {n: p.shape for n, p in model.trunk.named_parameters()} == expected
    assert model.head.heads["0"].weight.shape == (3, 4096)


def test_named_weights_are_those_of_torchvision(imagenet, monkeypatch):
    net, _ = imagenet
    asked = []

    def get_state_dict(self, **options):
        asked.append((self, options))
        return net.state_dict()

    monkeypatch.setattr(AlexNet_Weights, "get_state_dict", get_state_dict)
    model = MultiHeadAlexNet([3], weights="IMAGENET1K_V1")
    assert asked == [(AlexNet_Weights.IMAGENET1K_V1, {"progress": True, "check_hash": True})]
    assert torch.equal(model.trunk.features[0].weight, net.features[0].weight)


def test_weights_that_do_not_fit_are_named(tmp_path):
    path = tmp_path / "weights.pth"
    with pytest.raises(ValueError, match=r"Expected `weights` to be None, one of .* got '.*none'"):
        MultiHeadAlexNet([3], weights=tmp_path / "none")
    torch.save({"features.0.weight": torch.zeros(1)}, path)
    with pytest.raises(
        ValueError, match=r"`features.0.weight` of shape \(64, 3, 11, 11\), got \(1,"
    ):
        MultiHeadAlexNet([3], weights=path)
    torch.save({}, path)
    with pytest.raises(ValueError, match=r"`features.0.weight` .* got nothing"):
        MultiHeadAlexNet([3], weights=path)
    torch.save([1, 2], path)
    with pytest.raises(ValueError, match="Expected `weights` to hold a state dict"):
        MultiHeadAlexNet([3], weights=path)
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(ValueError, match="Expected `weights` to be a file of tensors alone"):
        MultiHeadAlexNet([3], weights=path)


class Evil:
    def __reduce__(self):
        return (print, ("this must not run",))


def test_code_in_a_file_does_not_run(tmp_path, capsys):
    torch.save({"features.0.weight": Evil()}, tmp_path / "evil.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Evil(), protocol=2))
    for name in ("evil.pth", "plain.pth"):
        with pytest.raises(ValueError, match="which does not load with weights_only=True"):
            MultiHeadAlexNet([3], weights=tmp_path / name)
    assert capsys.readouterr().out == ""


def test_weights_go_with_the_original_trunk_only():
    with pytest.raises(ValueError, match="Expected `weights` to be None for a trunk that is not"):
        small(weights="IMAGENET1K_V1")


@pytest.mark.parametrize(
    ("image_size", "least"), [(15, 15), (28, 15), (32, 15), (64, 29), (96, 43), (127, 43)]
)
def test_small_variant_takes_small_images(image_size, least):
    model = MultiHeadAlexNet([4], image_size=image_size, width=0.05)
    assert model(torch.zeros(1, 3, image_size, image_size), 0).shape == (1, 4)
    assert model(torch.zeros(1, 3, least, least), 0).shape == (1, 4)
    with pytest.raises(
        ValueError, match=f"images of at least {least} x {least} pixels, got {least} x {least - 1}"
    ):
        model(torch.zeros(1, 3, least, least - 1), 0)


def test_original_trunk_takes_images_from_63_pixels_on():
    model = MultiHeadAlexNet([4], width=0.05)
    assert model(torch.zeros(1, 3, 63, 63), 0).shape == (1, 4)
    with pytest.raises(ValueError, match="Resize them, or build the model with image_size=62"):
        model(torch.zeros(1, 3, 62, 224), 0)
    with pytest.raises(ValueError, match="Expected `image_size` to be at least 15, got 14"):
        MultiHeadAlexNet([4], image_size=14)


def test_dropout_is_kept_and_off_in_evaluation():
    model = small(dropout=0.7)
    assert [m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)] == [0.7, 0.7]
    x = torch.randn(2, 3, 32, 32)
    assert not torch.equal(model(x, 0), model(x, 0))
    model.eval()
    assert torch.equal(model(x, 0), model(x, 0))


def test_frozen_trunk_leaves_the_heads_to_train_and_to_weigh():
    model = small(freeze_trunk=True)
    trainable = {n for n, p in model.named_parameters() if p.requires_grad}
    assert trainable == {n for n, _ in model.named_parameters() if n.startswith("head.")}
    importance = estimate_importance(model, torch.randn(2, 3, 32, 32), task_label=1)
    assert set(importance) == trainable
    assert importance["head.heads.1.weight"].any()
    assert not importance["head.heads.0.weight"].any()
