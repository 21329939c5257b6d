"""Python environments, one for each set of rivals whose packages can live together, outside of the clone."""

import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
TORCH = "torch==2.15.*"
# optimum-intel exports no model with transformers 5 and with none before 4.57; 4.56 is the last with diverse beam search.
REQUIREMENTS = {
    "transformers": [TORCH, "transformers==5.24.*", "peft==0.21.*", "ctranslate2==4.8.5", "safetensors", "sentencepiece", "protobuf", "numpy"],
    "openvino": [TORCH, "transformers==4.57.*", "openvino==2026.4.*", "optimum-intel==2.2.*", "nncf", "sentencepiece", "protobuf", "numpy"],
    "diverse": [TORCH, "transformers==4.56.*", "sentencepiece", "protobuf", "numpy"],
}
CHECKS = {
    "transformers": "import torch, transformers, peft, ctranslate2",
    "openvino": "import torch, transformers, openvino, nncf, optimum.intel",
    "diverse": "import torch, transformers",
}
VERSIONS = {
    "transformers": ["transformers", "torch", "peft", "ctranslate2"],
    "openvino": ["openvino", "optimum-intel", "transformers", "torch"],
    "diverse": ["transformers", "torch"],
}


def cache():
    """The directory that holds the environments and the models that are made for them."""
    return pathlib.Path(os.environ.get("PARALOOM_RIVALS", pathlib.Path.home() / ".cache" / "paraloom"))


def environment(name):
    """The Python of an environment, made where there is none yet; nothing where its packages cannot be installed."""
    folder = cache() / f"rivals-{name}"
    print(f"{folder}: {', '.join(REQUIREMENTS[name])}", file=sys.stderr, flush=True)
    try:
        command = ["bash", ROOT / "tests" / "python.sh", folder.name, *REQUIREMENTS[name]]
        made = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env={**os.environ, "PARALOOM_VENVS": str(cache())})
        python = pathlib.Path(made.stdout.strip())
        subprocess.run([python, "-c", CHECKS[name]], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"skipped: the engines of `{name}` cannot be installed ({error})", flush=True)
        return None
    return python


def versions(name, python):
    """The packages of an environment that a figure depends on, with their versions."""
    code = f"import importlib.metadata as m; print(', '.join(f'{{p}} {{m.version(p)}}' for p in {VERSIONS[name]!r}))"
    return subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout.strip()
