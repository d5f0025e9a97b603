"""The conformance kit, one known result, and the name of the format in files and on the command line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch
from hierarchical_tucker import HierarchicalTucker

from tensorfact import adapt, plan_for
from tensorfact.lab import nano
from tensorfact.network import Mode
from tensorfact.testing import check_format

test_laws = check_format(HierarchicalTucker(rank=2)).as_test()


def test_four_modes_are_two_pairs() -> None:
    modes = tuple(Mode(name, size, "stack") for name, size in zip("abcd", (3, 4, 5, 6), strict=True))
    format = HierarchicalTucker(rank=2)
    assert format.num_parameters(modes) == 2 * (3 + 4 + 5 + 6) + 2 * 2**3 + 2**2
    found = format.decompose(torch.randn(3, 4, 5, 6, generator=torch.Generator().manual_seed(0)), modes)
    u1, u2, u3, u4, left, right, root = (found.cores[n] for n in ("U1", "U2", "U3", "U4", "B1_2", "B3_4", "B1_2_3_4"))
    expected = torch.einsum("ai,bj,ck,dl,ijx,kly,xy->abcd", u1, u2, u3, u4, left, right, root)
    torch.testing.assert_close(found.dense(), expected)


def test_the_command_line_lists_its_name() -> None:
    listed = subprocess.run(
        [Path(sys.executable).with_name("tensorfact"), "formats"], check=True, capture_output=True, text=True
    )
    assert "hierarchical-tucker" in listed.stdout


LOAD = """
import sys
from tensorfact import load_adapter
from tensorfact.lab import nano
adapter = load_adapter(nano(), sys.argv[1])
print(adapter.formats["encoder"], "hierarchical_tucker" in sys.modules)
"""


def test_a_file_loads_in_a_fresh_process_that_never_imported_it(tmp_path: Path) -> None:
    model = nano()
    adapt(model, plan_for(model), HierarchicalTucker(rank=4)).save(path := tmp_path / "adapter.safetensors")
    done = subprocess.run([sys.executable, "-c", LOAD, path], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["HierarchicalTucker(rank=4)", "True"]
