"""Digests: equal for equal bits only."""

from __future__ import annotations

import torch

from audit.checkpoint import combine_digests, tensor_digest


def test_digests_depend_on_name_dtype_shape_and_every_byte_but_not_on_order() -> None:
    tensor = torch.arange(6, dtype=torch.float32).reshape(2, 3)
    digest = tensor_digest("a", tensor)
    assert digest == tensor_digest("a", tensor.clone())
    changed = tensor.clone()
    changed[1, 2] = torch.nextafter(changed[1, 2], torch.tensor(9.0))
    others = [
        tensor_digest("b", tensor),
        tensor_digest("a", tensor.reshape(3, 2)),
        tensor_digest("a", tensor.view(torch.int32)),
        tensor_digest("a", changed),
    ]
    assert len({digest, *others}) == 5
    pairs = [("a", digest), ("b", others[0])]
    assert combine_digests(pairs) == combine_digests(reversed(pairs)) != combine_digests(pairs[:1])
    assert tensor_digest("c", torch.tensor(1.0)) != tensor_digest("c", torch.empty(0))


def test_minus_zero_is_a_change() -> None:
    assert tensor_digest("a", torch.tensor([0.0])) != tensor_digest("a", torch.tensor([-0.0]))
