"""Records what torch pickles, for the tests of the reader: small state dictionaries, and the same values as safetensors.

    python tests/fidelity/make_pickles.py stages/t5-core/tests/pickles

needs torch and safetensors; `tests/fidelity/venv.sh` makes such an environment.
"""

import collections
import pathlib
import sys

import torch
from safetensors.torch import save_file


def state():
    """Every kind of tensor that a checkpoint has been seen to have."""
    torch.manual_seed(1)
    base = torch.randn(6, 4)
    tensors = collections.OrderedDict(
        f32=base,
        tied=base,
        f16=torch.randn(5).half(),
        bf16=torch.randn(2, 3).bfloat16(),
        f64=torch.randn(3, dtype=torch.float64),
        transposed=torch.randn(3, 5).T,
        slice=torch.randn(8, 3)[2:5],
        columns=torch.randn(4, 6)[:, 1:5:2],
        parameter=torch.nn.Parameter(torch.randn(2, 2)),
        frozen=torch.nn.Parameter(torch.randn(2), requires_grad=False),
        scalar=torch.tensor(2.5),
        empty=torch.zeros(0, 3),
        integers=torch.arange(4),
    )
    # As `Module.state_dict` has it.
    tensors._metadata = collections.OrderedDict({"": {"version": 1}})
    return tensors


def main():
    folder = pathlib.Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    tensors = state()
    torch.save(tensors, folder / "archive.bin")
    torch.save(dict(tensors), folder / "archive-4.bin", pickle_protocol=4)
    torch.save(tensors, folder / "stream.bin", _use_new_zipfile_serialization=False)
    plain = {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}
    save_file(plain, folder / "expected.safetensors")
    torch.save({"weights": torch.ones(2), "epoch": 3, "optimizer": {}}, folder / "training.bin")
    torch.save(torch.nn.Linear(2, 2), folder / "module.bin")
    torch.save({"sparse": torch.eye(3).to_sparse()}, folder / "sparse.bin")


if __name__ == "__main__":
    main()
