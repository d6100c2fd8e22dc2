"The smoke study in clean copies of the repository: deterministic, and unhurt by kill -9."
import json
import time

import pytest

from rebuilding import made, rebuild, rebuild_killed, result_of


@pytest.fixture(scope="session")
def clean(copy):
    "The smoke study, rebuilt once without interruption."
    project = copy("clean")
    started = time.time()
    rebuild(project)
    return project, time.time() - started


def test_smoke_study_is_whole(clean):
    project, _ = clean
    assert {"table1.csv", "table2.csv", "table3.csv", "table4.csv", "retention.csv", "claims.csv"} <= set(
        made(project, "tables")
    )
    assert {"fig1.png", "fig1.svg"} <= set(made(project, "figures"))
    results = [json.loads(p.read_text()) for p in project.glob("outputs/smoke/runs/*/*/result.json")]
    assert all(r["asked"] == r["used"] for r in results)
    assert "nothing to do: everything is up to date" in rebuild(project)


def test_repairs_of_one_group(clean):
    project, _ = clean
    rebuild(project, "repair-test/bi-hi")
    told = result_of(project, "repair-dev/bi-hi")
    assert told["looked_at"] > 10 and told["directions"] == ["en-hi", "hi-en"]
    of_experts = [c for c in told["candidates"] if c["name"] == "experts"]
    assert of_experts[0]["models"] == 2 and of_experts[0]["retention"]["chrF2"]["score"] == 1
    points = result_of(project, "repair-test/bi-hi")["points"]
    assert {"bare", "bare-script", "parts", "recommended"} <= set(points)
    assert "nothing to do: everything is up to date" in rebuild(project, "repair-test/bi-hi")


@pytest.mark.slow
def test_all_repairs_follow_the_smoke_study(clean):
    project, _ = clean
    rebuild(project, "repair")
    assert {"frontier.csv", "repaired.csv", "trained_parts.csv", "confusion.csv"} <= set(made(project, "tables"))
    assert {"frontier.png", "frontier.svg"} <= set(made(project, "figures"))
    assert "nothing to do: everything is up to date" in rebuild(project, "repair")


@pytest.mark.slow
def test_one_merge_survives_kills(clean, copy):
    "Base, two experts, their merge and its translation, killed while they are made: the same results as without."
    project, last = clean[0], "translate/bi-hi.ties__bi-hi"
    killed = copy("killed")
    assert rebuild_killed(killed, last, times=3, longest=15) == 3
    assert result_of(killed, "merge/bi-hi")["points"] == result_of(project, "merge/bi-hi")["points"]
    assert result_of(killed, last) == result_of(project, last)


@pytest.mark.slow
def test_two_clean_smoke_studies_are_equal(clean, copy):
    second = copy("second")
    rebuild(second)
    first, tables = made(clean[0], "tables"), made(second, "tables")
    assert tables == {name: first[name] for name in tables}
