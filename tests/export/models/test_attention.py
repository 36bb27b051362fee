import pytest
import torch
from torch.nn import functional

from saymask.export.models.attention import attend

HEADS, WIDTH = 3, 12


def _split(tokens: torch.Tensor) -> torch.Tensor:
    return tokens.unflatten(-1, (HEADS, -1)).transpose(1, 2)


@pytest.fixture
def tokens() -> list[torch.Tensor]:
    """Query, key and value; there are more keys than queries."""
    torch.manual_seed(0)
    return [torch.randn(2, count, WIDTH) for count in (5, 7, 7)]


@pytest.mark.parametrize("has_bias", [False, True])
def test_it_is_torchs_scaled_dot_product_attention(tokens, has_bias):
    bias = 3 * torch.randn(2, 1, 1, 7) if has_bias else None
    expected = functional.scaled_dot_product_attention(*map(_split, tokens), attn_mask=bias)
    found = attend(*tokens, heads=HEADS, bias=bias)
    torch.testing.assert_close(found, expected.transpose(1, 2).flatten(2))


def test_a_query_shared_by_the_batch_is_broadcast(tokens):
    query, key, value = tokens
    found = attend(query[:1], key, value, heads=HEADS)
    torch.testing.assert_close(found, attend(query[:1].expand(2, -1, -1), key, value, heads=HEADS))


def test_half_precision_survives_products_beyond_its_range():
    query = torch.full((1, 2, 64), 40.0, dtype=torch.float16)
    assert torch.isinf(query @ query.transpose(1, 2)).all()
    found = attend(query, query, query, heads=1)
    assert found.dtype == torch.float16
    torch.testing.assert_close(found, query)
