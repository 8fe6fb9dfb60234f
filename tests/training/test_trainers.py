"""Naming a trainer costs nothing: what it needs is imported when it trains."""

from __future__ import annotations

import subprocess
import sys


def run(program: str) -> str:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True).stdout


def test_a_project_file_that_names_trainers_imports_neither_torch_nor_scikit_learn():
    heavy = run(
        "import sys, tidemill.training.trainers;"
        "print(sorted({m.split('.')[0] for m in sys.modules} & {'torch', 'sklearn', 'skl2onnx', 'skops', 'onnx'}))"
    )
    assert heavy == "[]\n"


def test_a_missing_torch_says_what_to_install():
    told = run(
        "import sys; sys.modules['torch'] = None\n"
        "from tidemill.errors import MissingExtra\n"
        "from tidemill.model import TrainingData\n"
        "from tidemill.schema import *\n"
        "from tidemill.training.trainers import Torch\n"
        "import numpy as np\n"
        "def make(): pass\n"
        "data = TrainingData(schema=Schema({'a': Number()}, Value()), columns={'a': np.zeros(1)},"
        " targets=np.zeros(1), weights=np.ones(1), ids=('e',))\n"
        "try: Torch(make).train(data, start_from=None, seed=0, workdir=None, progress=print)\n"
        "except MissingExtra as error: print(error)\n"
    )
    assert "pip install 'tidemill[torch]'" in told
