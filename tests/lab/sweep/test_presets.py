"""The paper's sweep has the paper's protocol."""

from __future__ import annotations

from tensorfact.lab import nano
from tensorfact.lab.methods import method_of
from tensorfact.lab.sweep import PROTOCOLS, known_specs, preset


def test_the_paper_has_the_papers_protocol() -> None:
    sweep = preset("paper")
    settings = sweep.settings
    assert (settings.lr, settings.weight_decay, settings.batch_size) == (1e-3, 1e-4, 64)
    assert (settings.epochs, settings.warmup_epochs) == (100, 10)
    assert {scale for row in sweep.parts[0].rows for scale in row.scales} == {None, 0.01, 0.1, 1.0, 10.0, 100.0}
    assert [len(part.tasks) for part in sweep.parts] == [19, 75, 19]
    released = PROTOCOLS["as-released"](sweep)
    assert (released.settings.dropout, released.settings.drop_path, released.seeds) == (0.1, 0.1, (0,))
    assert {spec.stage for spec in known_specs(released)} == {"released"}
    methods = {method.partition(":")[0] for part in released.parts for row in part.rows for method in row.methods}
    assert "fact-tk-released" in methods
    assert "fact-tk" not in methods
    facts = [method for part in released.parts for row in part.rows for method in row.methods if "fact" in method]
    assert all(method.endswith(",released_start=True") for method in facts)
    assert method_of(facts[0]).attach(nano(), seed=0).num_parameters > 0
    assert "test split" in released.protocol
