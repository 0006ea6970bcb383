"""Both profilers look at some batches only, and leave files that their viewers open."""

from __future__ import annotations

import json
import pstats

import torch

from onesheet.training.run import train


def test_cprofile_of_some_batches_opens_in_snakeviz(configure, tmp_path):
    result = train(configure(tmp_path / "run", "trainer.profiler=cprofile", "trainer.profile_batches=3"))
    assert torch.load(result.last, weights_only=True)["global_step"] == 3
    stats = pstats.Stats(str(tmp_path / "run/profile/train.prof"))
    names = {name for _, _, name in stats.stats}
    assert "training_step" in names

    from snakeviz.stats import json_stats, table_rows

    assert len(table_rows(stats)) > 100
    assert any("(training_step)" in name for name in json_stats(stats))


def test_the_torch_profiler_leaves_a_trace_and_a_table(configure, tmp_path):
    train(configure(tmp_path / "run", "trainer.profiler=pytorch", "trainer.profile_batches=5"))
    (trace,) = (tmp_path / "run/profile").glob("*.pt.trace.json*")
    events = json.loads(trace.read_text())["traceEvents"]
    steps = {event["name"] for event in events if str(event.get("name")).startswith("ProfilerStep")}
    assert steps == {"ProfilerStep#3", "ProfilerStep#4"}
    assert "aten::mkldnn_convolution" in {event.get("name") for event in events}
    assert "Self CPU" in (tmp_path / "run/profile/operators.txt").read_text()
