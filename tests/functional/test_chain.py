"""Chains of vectors against products of matrices."""

import torch

from vit_interactions.functional.chain import chain, chain_without_identity, horner, patch_readouts


def test_chains_of_vectors_are_products_of_matrices() -> None:
    torch.manual_seed(2)
    matrices = [torch.rand(2, 5, 5).double() for _ in range(4)]
    readout = torch.rand(2, 5).double()
    identity = torch.eye(5).double()
    product = identity
    recursive = published = identity.expand(2, 5, 5)
    for matrix in matrices:
        residual = matrix + 0.7 * identity
        product = residual / residual.sum(-1, keepdim=True) @ product
        recursive = matrix @ recursive + 0.7 * identity  # R <- A R + alpha I
        published = published @ matrix + 0.7 * identity  # R <- R A + alpha I
    row = readout[:, None]
    assert torch.allclose(chain(readout, matrices[::-1], 0.7, normalize=True), (row @ product)[:, 0])
    without = chain(readout, matrices[::-1], normalize=False) - readout
    assert torch.allclose(chain_without_identity(readout, matrices[::-1]), without)
    assert torch.allclose(horner(readout, matrices[::-1], 0.7), (row @ recursive)[:, 0])
    assert torch.allclose(horner(readout, matrices, 0.7, "as_published"), (row @ published)[:, 0])


def test_readouts_of_all_patches_give_the_rows_of_the_product() -> None:
    torch.manual_seed(3)
    matrices = [torch.rand(2, 5, 5).double() for _ in range(3)]
    readouts = patch_readouts(torch.zeros(2, 5).double(), prefix=2)
    assert torch.equal(readouts, torch.eye(5).double()[2:].expand(2, 3, 5))
    several = {
        "chain": chain(readouts, matrices, 0.7, normalize=True),
        "without": chain_without_identity(readouts, matrices),
        "horner": horner(readouts, matrices, 0.7, "as_published"),
    }
    for row in range(3):
        single = readouts[:, row]
        assert torch.allclose(several["chain"][:, row], chain(single, matrices, 0.7, normalize=True))
        assert torch.allclose(several["without"][:, row], chain_without_identity(single, matrices))
        assert torch.allclose(several["horner"][:, row], horner(single, matrices, 0.7, "as_published"))
