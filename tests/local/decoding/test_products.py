from __future__ import annotations

import pytest
import torch

from srr_guard.local.decoding.products import FEWEST, product


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("inputs", "outputs"), [(32, 64), (32, 200), (48, 40), (576, 960)])
@pytest.mark.parametrize("rows", [1, 3, 15, 16, 40])
def test_products_are_those_of_a_linear_layer(
    dtype: torch.dtype, inputs: int, outputs: int, rows: int
) -> None:
    numbers = torch.Generator().manual_seed(0)
    x = torch.randn(rows, inputs, generator=numbers).to(dtype)
    weight = torch.randn(outputs, inputs, generator=numbers).to(dtype)
    expected = torch.nn.functional.linear(x.double(), weight.double())
    found = product(x, weight).double()
    assert (found - expected).norm() < (1e-5 if dtype == torch.float32 else 0.02) * expected.norm()


@pytest.mark.skipif(
    not torch.backends.mkl.is_available() or torch.backends.cpu.get_cpu_capability() != "AVX512",
    reason="other libraries sum in other orders",
)
@pytest.mark.parametrize(("inputs", "outputs"), [(32, 64), (576, 960)])
def test_a_row_does_not_depend_on_the_others(inputs: int, outputs: int) -> None:
    numbers = torch.Generator().manual_seed(0)
    x = torch.randn(24, inputs, generator=numbers)
    weight = torch.randn(outputs, inputs, generator=numbers)
    whole = product(x, weight)
    for rows in (FEWEST, 8, 15, 16):
        assert torch.equal(product(x[:rows], weight), whole[:rows])
