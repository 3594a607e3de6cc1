import subprocess
import sys

import pytest

from fieldtune.hardware.installed import features
from fieldtune.training.backends import training_api


def _python(folder, program):
    """Run a program in an interpreter that has a folder's packages and this one file."""
    command = [sys.executable, "-I", "-S", "-c", program, str(folder), training_api.__file__]
    return subprocess.run(command, capture_output=True, text=True, check=False)


PROGRAM = """
import importlib.util, sys
sys.path.insert(0, sys.argv[1])
spec = importlib.util.spec_from_file_location("training_api", sys.argv[2])
training_api = importlib.util.module_from_spec(spec)
spec.loader.exec_module(training_api)
"""


@pytest.fixture
def runtime(tmp_path):
    """A folder with a package onnxruntime whose training part wants torch, as that of the training build does."""
    folder = tmp_path / "onnxruntime" / "training"
    (folder / "api").mkdir(parents=True)
    (tmp_path / "onnxruntime" / "__init__.py").write_text("")
    (folder / "__init__.py").write_text("import torch\n")
    (folder / "api" / "__init__.py").write_text("from onnxruntime.training.api.module import Module\n")
    (folder / "api" / "module.py").write_text("class Module: pass\n")
    (folder / "broken.py").write_text("import nothing_of_this_name\n")
    return tmp_path


def test_a_submodule_comes_without_its_parents_imports(runtime):
    program = PROGRAM + (
        "api = training_api.import_training('api')\n"
        "assert api.Module.__name__ == 'Module'\n"
        "assert training_api.import_training('api') is api\n"
        "assert 'torch' not in sys.modules and 'onnxruntime.training' not in sys.modules\n"
        "import onnxruntime\n"
        "assert not hasattr(onnxruntime, 'training')\n"
        "import onnxruntime.training\n"
    )
    found = _python(runtime, program)
    # The last line is the real package's own.
    assert found.stderr.endswith("ModuleNotFoundError: No module named 'torch'\n"), found.stderr


def test_the_real_package_is_used_where_it_was_imported(runtime):
    (runtime / "torch.py").write_text("")
    program = PROGRAM + (
        "import onnxruntime.training\n"
        "real = onnxruntime.training\n"
        "assert training_api.import_training('api').Module\n"
        "assert sys.modules['onnxruntime.training'] is real\n"
        "assert real.api is sys.modules['onnxruntime.training.api']\n"
    )
    found = _python(runtime, program)
    assert (found.returncode, found.stderr) == (0, "")


def test_a_submodule_that_cannot_be_imported_leaves_no_trace(runtime):
    program = PROGRAM + (
        "for name in ('broken', 'absent'):\n"
        "    try:\n"
        "        training_api.import_training(name)\n"
        "    except ImportError as error:\n"
        "        print(error)\n"
        "assert not any(name.startswith('onnxruntime.training') for name in sys.modules)\n"
    )
    found = _python(runtime, program)
    assert (found.returncode, found.stderr) == (0, "")
    assert found.stdout == ("No module named 'nothing_of_this_name'\nNo module named 'onnxruntime.training.absent'\n")


def test_no_runtime_at_all_is_an_import_error(tmp_path):
    found = _python(tmp_path, PROGRAM + "training_api.import_training('api')\n")
    assert found.stderr.endswith("ModuleNotFoundError: No module named 'onnxruntime'\n")


def test_a_runtime_without_the_training_api_is_an_import_error():
    pytest.importorskip("onnxruntime")
    if features().has_training_api:
        assert training_api.import_training("api").CheckpointState
        return
    with pytest.raises(ImportError, match="onnxruntime"):
        training_api.import_training("api")
    assert "onnxruntime.training" not in sys.modules
