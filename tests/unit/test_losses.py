"""The losses are those of their papers, and stay finite where probabilities round to 0 and 1."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch.nn.functional import binary_cross_entropy_with_logits  # noqa: E402
from torchvision.ops import sigmoid_focal_loss  # noqa: E402

from onesheet.training.config import LossConfig  # noqa: E402
from onesheet.training.losses import GenreLoss, class_balanced_weights  # noqa: E402

COUNTS = [400, 100, 10, 2]


@pytest.fixture
def batch():
    random = torch.Generator().manual_seed(1)
    return torch.randn((16, 4), generator=random) * 3, torch.rand((16, 4), generator=random).round()


def loss_of(batch, **config):
    return GenreLoss(LossConfig(**config), COUNTS, posters=500)(*batch)


def test_bce_is_torchs(batch):
    assert torch.isclose(loss_of(batch), binary_cross_entropy_with_logits(*batch))


def test_focal_is_torchvisions(batch):
    expected = sigmoid_focal_loss(*batch, alpha=-1, gamma=2.0, reduction="mean")
    assert torch.isclose(loss_of(batch, name="focal", gamma_positive=2.0, gamma_negative=2.0), expected)


def test_asymmetric_is_that_of_the_paper(batch):
    logits, targets = batch
    p = torch.sigmoid(logits)
    shifted = (p - 0.05).clamp(min=0)
    expected = -(targets * (1 - p) * p.log() + (1 - targets) * shifted**4 * (1 - shifted).log()).mean()
    actual = loss_of(batch, name="asymmetric", gamma_positive=1.0, gamma_negative=4.0, clip=0.05)
    assert torch.isclose(actual, expected, atol=1e-6)


def test_focusing_by_nothing_is_bce(batch):
    assert torch.isclose(loss_of(batch, name="asymmetric"), loss_of(batch), atol=1e-6)


@pytest.mark.parametrize("name", ["bce", "focal", "asymmetric"])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("clip", [0.0, 0.05])
def test_extreme_logits_have_finite_gradients(name, gamma, clip):
    logits = torch.tensor([[-200.0, 200.0, -30.0, 30.0], [200.0, -200.0, 30.0, -30.0]], requires_grad=True)
    targets = torch.tensor([[0.0, 1.0, 1.0, 0.0], [0.0, 1.0, 0.3, 0.3]])
    loss_of((logits, targets), name=name, gamma_positive=gamma, gamma_negative=gamma, clip=clip).backward()
    assert torch.isfinite(logits.grad).all()


def test_smoothing_moves_the_truth_towards_the_frequencies(batch):
    logits, targets = batch
    soft = 0.9 * targets + 0.1 * torch.tensor(COUNTS) / 500
    assert torch.isclose(loss_of(batch, smoothing=0.1), binary_cross_entropy_with_logits(logits, soft))


def test_rare_genres_weigh_more_by_their_effective_number():
    weights = class_balanced_weights(COUNTS, 0.99)
    effective = np.array([(1 - 0.99**n) / (1 - 0.99) for n in COUNTS])
    assert torch.allclose(weights / weights[0], torch.from_numpy(effective[0] / effective).float())
    assert torch.isclose(weights.mean(), torch.tensor(1.0))
    assert torch.equal(class_balanced_weights(COUNTS, 0.0), torch.ones(4))


def test_a_genre_without_posters_weighs_as_one_with_one():
    weights = class_balanced_weights([100, 1, 0], 0.999)
    assert weights[1] == weights[2]


def test_balance_reaches_the_loss(batch):
    logits, targets = batch
    losses = binary_cross_entropy_with_logits(logits, targets, reduction="none")
    expected = (losses * class_balanced_weights(COUNTS, 0.99)).mean()
    assert torch.isclose(loss_of(batch, balance=0.99), expected)
