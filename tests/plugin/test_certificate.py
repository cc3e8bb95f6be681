"""The certificate: its truths against oracles, and that a broken instrument does not pass."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from graticule.certificate import certify as module
from graticule.certificate import probes
from graticule.certificate.certify import certify
from graticule.certificate.figures import nothing_figure
from graticule.certificate.learners import (
    Learners,
    Plan,
    Subject,
    least_linear,
    noisy_reader,
    sequence_points,
)
from graticule.certificate.probes import agreement
from graticule.certificate.requirements import Mark, marks_of
from graticule.certificate.result import SCOPE, Certificate
from graticule.certificate.uses import uses
from graticule.hooks.artifact import ArtifactError
from graticule.probes.causes import second_verdict
from graticule.probes.core.fit import Predictions
from graticule.probes.linear.ridge import RidgeProbe
from graticule.probes.mlp import MLPSettings
from graticule.sims.training.settings import SequenceShape, SequenceTraining, Training
from graticule.sims.truth.optimal import optimal_reader
from graticule.sims.world import UNKNOWN, World

from ..helpers import misread_axes

PLAN = Plan(
    learners=("lookup",),
    dimensions=(0.5, 1.0),
    noises=(1.0,),
    masks=(8,),
    lookup=Training(optimizer="population", steps=4000),
    sequence=SequenceTraining(shape=SequenceShape(n_layers=1), steps=120, batch=32, log_every=60),
    rows=1000,
    labellings=12,
    pairs=2,
    decoys=0,
)
SMALL = MLPSettings(hidden=64, decays=(0.01,), batch=128, epochs=60, patience=15, learning_rate=1e-2)


@pytest.fixture(scope="module")
def world():
    return World.random(4, seed=1)


@pytest.fixture(scope="module", autouse=True)
def small_networks():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probes, "MLP", SMALL)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("certificate")


@pytest.fixture(scope="module")
def certificate(world, folder):
    return certify(world, plan=PLAN, out=folder, progress=False)


@pytest.fixture(scope="module")
def subject(world, certificate, folder):
    """The learner as wide as there are concepts, read back from the certificate's own folder."""
    (learners,) = folder.glob("parts/*/learners")
    return Learners(world, PLAN, learners, progress=False).subject("lookup", "dimension", 1.0)


def mark(marks: tuple[Mark, ...], instrument: str, words: str) -> Mark:
    (found,) = [m for m in marks if m.instrument == instrument and words in m.what]
    return found


def again(world: World, **changes) -> Certificate:
    """Another certificate on the same world: one width, no other conditions."""
    return certify(
        world, plan=replace(PLAN, noises=(), masks=(), dimensions=(1.0,), **changes), progress=False
    )


# What is true ------------------------------------------------------------------------------------------
def test_best_reader_under_noise_is_what_many_noisy_copies_give():
    rng = np.random.default_rng(0)
    x, weights = rng.normal(size=(40, 3)) * [1, 2, 0.3], rng.dirichlet(np.ones(40))
    y = x @ rng.normal(size=(3, 2)) + 0.3 * rng.normal(size=(40, 2))
    copies = 4000
    noisy = np.repeat(x, copies, axis=0) + 0.7 * rng.normal(size=(40 * copies, 3))
    seen = optimal_reader(noisy, np.repeat(y, copies, axis=0), np.repeat(weights, copies))
    got = noisy_reader(x, y, weights, 0.7)
    np.testing.assert_allclose(got.coef, seen.coef, atol=0.02)
    np.testing.assert_allclose(got.r2, seen.r2, atol=0.01)
    without = noisy_reader(x, y, weights, 0.0)
    np.testing.assert_allclose(without.coef, optimal_reader(x, y, weights).coef, atol=1e-9)
    np.testing.assert_allclose(without.write, optimal_reader(x, y, weights).write, atol=1e-9)


def test_agreement_is_the_correlation_of_readings():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(500, 4)) @ np.diag([3.0, 1.0, 0.1, 0.0])
    a, b = rng.normal(size=(4, 2)), rng.normal(size=(4, 2))
    got = agreement(a, b, np.cov(x.T, ddof=0))
    for k in range(2):
        assert got[k] == pytest.approx(np.corrcoef(x @ a[:, k], x @ b[:, k])[0, 1])
    other = a + np.array([[0.0], [0.0], [0.0], [100.0]])  # where nothing varies
    np.testing.assert_allclose(agreement(a, other, np.cov(x.T, ddof=0)), 1.0)


@pytest.mark.slow
def test_rows_are_split_by_context_and_so_are_random_labels(subject):
    contexts, test = subject.rows.contexts, subject.test
    assert not set(contexts[test]) & set(contexts[~test])
    labels = probes.random_labels(subject, 12)
    for context in np.unique(contexts):
        assert np.ptp(labels[contexts == context], axis=0).max() == 0
    assert (labels[test].std(axis=0) > 0).all() and (labels[~test].std(axis=0) > 0).all()
    assert len(np.unique(labels, axis=1).T) == 12


@pytest.mark.slow
def test_noise_is_as_loud_as_it_is_said(subject):
    noisy, point = subject.with_noise(0.5), subject.points[-1]
    added = noisy.values(point) - subject.values(point)
    assert added.std() == pytest.approx(noisy.noise[point], rel=0.05)
    signal = np.sqrt(np.trace(subject.covariance(point)) / subject.width)
    assert noisy.noise[point] == pytest.approx(0.5 * signal)
    np.testing.assert_array_equal(noisy.every.concept_values, subject.every.concept_values)
    assert noisy.reader(point).r2.max() < subject.reader(point).r2.max()


@pytest.mark.slow
def test_parities_least_linear_in_all_posteriors(subject):
    every = subject.every
    (first,) = least_linear(every, 1)
    ranked = least_linear(every, 6)
    linear = [
        optimal_reader(every.targets()[1], subject.true_parities([p]), every.weights).r2[0] for p in ranked
    ]
    assert ranked[0] == first and linear == sorted(linear) and len(set(ranked)) == 6


# A whole certificate -----------------------------------------------------------------------------------
@pytest.mark.slow
def test_instruments_pass_on_what_is_linear(certificate, subject):
    assert certificate.passed, certificate.summary()
    at = certificate.concepts[
        (certificate.concepts["condition"] == "dimension") & (certificate.concepts["level"] == 1)
    ]
    assert at["write_cosine"].min() > 0.95 and at["read_agreement"].min() > 0.98
    # beside the certificate: least squares by hand on the same split
    point, test = subject.points[-1], subject.test
    x = np.c_[subject.values(point), np.ones(len(test))]
    coef = np.linalg.lstsq(x[~test], subject.posteriors[~test], rcond=None)[0]
    left = ((x[test] @ coef - subject.posteriors[test]) ** 2).sum(axis=0)
    by_hand = 1 - left / ((subject.posteriors[test] - subject.posteriors[test].mean(axis=0)) ** 2).sum(axis=0)
    np.testing.assert_allclose(at["ridge_r2"], by_hand, atol=0.02)
    odd = certificate.parities[certificate.parities["level"] == 1]
    assert odd[odd["condition"] == "dimension"]["mlp"].mean() > 0.5


@pytest.mark.slow
def test_conditions_cost_what_they_must(certificate):
    means = certificate.concepts.groupby(["condition", "level"])[["ridge_r2", "best_r2"]].mean()
    whole, shared, noisy = (
        means.loc[key] for key in (("dimension", 1.0), ("dimension", 0.5), ("noise", 1.0))
    )
    for column in ("ridge_r2", "best_r2"):
        assert shared[column] < whole[column] - 0.1 and noisy[column] < whole[column] - 0.1
    assert certificate.concepts.loc[certificate.concepts["condition"] == "masks", "masks"].max() <= 8


@pytest.mark.slow
def test_page_says_what_passed_and_what_it_does_not_cover(certificate, tmp_path):
    lines = certificate.summary().splitlines()
    assert lines[0].startswith("PASS: ") and certificate.title == "graticule: certificate"
    assert sum("required" in line for line in lines) == len(certificate.marks)
    assert SCOPE in lines and "4 two-valued concepts" in certificate.summary()
    page = certificate.report(tmp_path / "page.html").read_text()
    assert "does not transfer to a language model" in page
    assert [misread_axes(figure) for figure in certificate.figures().values()] == [[]] * 9
    assert not any(t.empty for t in certificate.tables().values())


@pytest.mark.slow
def test_saved_and_loaded(certificate, tmp_path):
    certificate.save(tmp_path / "c")
    back = Certificate.load(tmp_path / "c")
    assert back.marks == certificate.marks and back.summary() == certificate.summary()
    assert back.concepts.equals(certificate.concepts)
    (tmp_path / "c" / "concepts.parquet").write_bytes(b"no")
    with pytest.raises(ArtifactError, match="damaged"):
        Certificate.load(tmp_path / "c")


@pytest.mark.slow
def test_goes_on_from_what_is_done(certificate, world, folder, monkeypatch):
    import shutil

    (place,) = folder.glob("parts/*")
    shutil.rmtree(place / "lookup-noise-1")
    made: list[str] = []
    whole = module._made
    monkeypatch.setattr(
        module, "_made", lambda s, p, name, *rest: made.append(name) or whole(s, p, name, *rest)
    )
    said: list[str] = []
    back = certify(world, plan=PLAN, out=folder, say=said.append, progress=False)
    assert made == ["lookup-noise-1"] and len(said) == 4
    assert back.marks == certificate.marks and back.concepts.equals(certificate.concepts)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["concepts.parquet", "manifest.json"])
def test_a_part_that_cannot_be_read_is_made_again(world, certificate, folder, name):
    (place,) = folder.glob("parts/*")
    (place / "lookup-noise-1" / name).write_bytes(b"")
    assert certify(world, plan=PLAN, out=folder, progress=False).marks == certificate.marks


@pytest.mark.slow
def test_a_folder_in_a_parts_place_that_does_not_say_what_it_is_stays(world, certificate, folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    (place,) = copy.glob("parts/*/lookup-noise-1")
    (place / "manifest.json").unlink()
    (place / "mine.txt").write_text("kept")
    with pytest.raises(
        FileExistsError, match=r"lookup-noise-1 holds something other than a certificate_part"
    ):
        certify(world, plan=PLAN, out=copy, progress=False)
    assert (place / "mine.txt").read_text() == "kept"


def test_a_plans_own_seed_is_kept(world, monkeypatch):
    seen: list[int] = []

    def stop(learners, plan, *rest):
        seen.append(plan.seed)
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "_part", stop)
    for given, seed in ((replace(PLAN, seed=7), None), (PLAN, 5), (PLAN, None)):
        with pytest.raises(KeyboardInterrupt):
            certify(world, plan=given, seed=seed, progress=False)
    assert seen == [7, 5, PLAN.seed]


@pytest.mark.slow
def test_false_positives_are_drawn_where_they_are(certificate):
    """Learners are set apart along the instruments' axis: along the rates' they would be moved."""
    found = nothing_figure(certificate.nothing)
    assert {trace.orientation for trace in found.data} == {"h"}
    for trace in found.data:
        held = certificate.nothing[certificate.nothing["learner"] + " learner" == trace.name]
        np.testing.assert_array_equal(trace.x, held["rate"])


@pytest.mark.slow
@pytest.mark.parametrize(
    "column", ["ridge_r2", "best_r2", "write_cosine", "read_agreement", "pca_r2", "mlp_r2"]
)
def test_a_figure_that_is_undefined_for_one_concept_does_not_pass(certificate, column):
    concepts = certificate.concepts.copy()
    held = concepts[(concepts["condition"] == "dimension") & (concepts["level"] >= 1)]
    at = held.index[held["point"] == held["point"].iloc[-1]][0]
    tables = certificate.parities, certificate.verdicts, certificate.nothing
    assert not any(np.isnan(m.value) for m in marks_of(concepts, *tables))
    concepts.loc[at, column] = np.nan
    undefined = [m for m in marks_of(concepts, *tables) if np.isnan(m.value)]
    assert undefined and not any(m.passed for m in undefined)


# What must not pass ------------------------------------------------------------------------------------
@pytest.mark.slow
def test_shuffled_directions_fail(world, monkeypatch):
    class Shuffled(RidgeProbe):
        @property
        def write_direction(self):
            return np.roll(super().write_direction, 1, axis=1)

        @property
        def read_direction(self):
            return np.roll(super().read_direction, 1, axis=1)

    real = probes.sweep

    def broken(*args, **kwargs):
        found = real(*args, **kwargs)
        shuffled = {p: Shuffled.from_fit(probe.weights, p) for p, probe in found.probes.items()}
        return replace(found, probes=shuffled)

    monkeypatch.setattr(probes, "sweep", broken)
    bad = again(world)
    assert not bad.passed and bad.summary().startswith("FAIL")
    for words in ("write direction", "read direction"):
        assert not mark(bad.marks, "ridge", words).passed
    assert mark(bad.marks, "ridge", "R² away").passed


@pytest.mark.slow
def test_an_instrument_that_saw_the_labels_fails(world, monkeypatch):
    def peeking(X, y, subject):
        return Predictions(y[~subject.test], y[subject.test])

    monkeypatch.setattr(probes, "_pca", peeking)
    bad = again(world)
    assert not mark(bad.marks, "PCA", "random labels").passed
    assert mark(bad.marks, "ridge", "random labels").passed


@pytest.mark.slow
def test_a_split_by_sample_fails(subject, monkeypatch):
    """Random rows share contexts: whoever splits them reads labels that mean nothing."""
    rows = len(subject.rows.weights)
    monkeypatch.setattr(Subject, "clusters", property(lambda self: np.arange(len(self.rows.weights))))
    monkeypatch.setattr(Subject, "test", np.random.default_rng(0).random(rows) < 0.25)
    told = probes.found_in_nothing(replace(subject, seed=1), subject.points[-1], 12)
    assert told.set_index("instrument").loc["MLP", "rate"] > 0.5
    assert told.set_index("instrument").loc["ridge", "rate"] > 0.2


@pytest.mark.slow
def test_a_learner_that_knows_nothing_fails(world):
    bad = again(world, lookup=Training(optimizer="population", steps=1), labellings=2)
    assert not mark(bad.marks, "ridge", "verdict").passed
    assert not mark(bad.marks, "MLP", "parity").passed


@pytest.mark.slow
def test_marks_by_hand(certificate):
    tables = (certificate.parities, certificate.verdicts, certificate.nothing)
    worse = certificate.concepts.assign(logistic_r2=certificate.concepts["logistic_r2"] - 0.5)
    bad = marks_of(worse, *tables)
    assert [m.instrument for m in bad if not m.passed] == ["logistic"]
    linear = certificate.parities.assign(ridge=0.9)
    bad = marks_of(certificate.concepts, linear, *tables[1:])
    assert [(m.instrument, "parity" in m.what) for m in bad if not m.passed] == [("ridge", True)]
    assert not Mark("ridge", "lookup", "", float("nan"), 0.5, True).passed


# The sequence learner and the command ------------------------------------------------------------------
@pytest.mark.slow
def test_sequence_learner_at_every_point(world, tmp_path):
    plan = replace(
        PLAN, learners=("sequence",), sequence_dimensions=(2.0,), noises=(), rows=600, labellings=2, pairs=1
    )
    found = certify(world, plan=plan, out=tmp_path, progress=False)
    assert found.concepts["point"].drop_duplicates().tolist() == list(sequence_points(SequenceShape(1, 8, 4)))
    assert found.concepts["width"].eq(8).all() and len(found.concepts) == 5 * 4
    assert {m.learner for m in found.marks} == {"sequence"}
    verdicts = found.verdicts  # the sweep's own choice first, then the ends of the other blocks
    assert verdicts["chosen"].tolist() == [True] + [False] * (len(verdicts) - 1)
    assert "blocks.0.hook_resid_post" in verdicts["point"].tolist() and verdicts["point"].is_unique
    at = found.concepts.groupby("point")["ridge_r2"].mean()
    np.testing.assert_allclose(verdicts["score"], at[verdicts["point"]], atol=0.05)
    assert len(found.figures()) == 5
    (learner,) = tmp_path.glob("parts/*/learners/sequence-dimension-2/trained")
    assert (learner / "learner.safetensors").is_file()
    seen = Learners(world, plan, learner.parents[1], progress=False).subject("sequence", "dimension", 2.0)
    for rows in (seen.rows, seen.untrained, seen.every):  # the start token's one row is no context of its own
        assert (rows.concept_values != UNKNOWN).any(axis=1).all() and (rows.concept_values != UNKNOWN).all(
            axis=1
        ).any()
    assert len(np.unique(seen.every.order, axis=0)) == 4 + 12 + 24 + 24  # all orders of four concepts


@pytest.mark.slow
def test_command(monkeypatch, tmp_path):
    from graticule.commands.simulating import certify_command as command

    tiny = replace(PLAN, noises=(), masks=(), dimensions=(1.0,), labellings=2, rows=400, pairs=1)
    monkeypatch.setattr(module, "QUICK", tiny)
    app = typer.Typer()
    app.command()(command)
    out = tmp_path / "out"
    said = CliRunner().invoke(app, ["--concepts", "4", "--quick", "--out", str(out)])
    assert said.exit_code == 0, said.output
    assert "The page:" in said.output and "lookup-dimension-1:" in said.output
    assert Certificate.load(out / "result").summary() in said.output
    assert (out / "report.html").is_file()


def test_what_cannot_be_is_refused(world):
    with pytest.raises(ValueError, match="needs 4 to 10"):
        certify(World.random(2, seed=0))
    with pytest.raises(ValueError, match="two values each"):
        certify(World.random(4, values=3, seed=0))
    for concepts in (3, 11, 17):
        with pytest.raises(ValueError, match=f"^concepts={concepts}: .* at least 4 and at most 10$"):
            certify(concepts=concepts)
    with pytest.raises(ValueError, match="'lookup', 'sequence' or both"):
        certify(world, plan=replace(PLAN, learners=("table",)))
    with pytest.raises(ValueError, match="at least one of 1 or more"):
        certify(world, plan=replace(PLAN, dimensions=(0.5,)))
    with pytest.raises(ValueError, match="above 0"):
        certify(world, plan=replace(PLAN, noises=(-1.0,)))


# What is used ------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_decoys_and_what_is_used_are_told_apart_unless_the_instrument_is_broken(world, monkeypatch, tmp_path):
    small = replace(PLAN, noises=(), masks=(), dimensions=(1.0,), labellings=2, decoys=4)
    good = certify(world, plan=small, out=tmp_path / "c", progress=False)
    assert mark(good.marks, "causes", "decoys").passed
    assert mark(good.marks, "causes", "hardly readable").passed
    assert good.uses["trials"].tolist() == [4, 4] and good.uses["readable"].diff().iloc[1] < 0
    assert "Called used by causes, in planted worlds" in good.tables()
    good.save(tmp_path / "saved")
    assert Certificate.load(tmp_path / "saved").summary() == good.summary()
    monkeypatch.setattr(second_verdict, "OWN", -1.0)  # whatever moves something is called used
    everything = uses(3, 0, progress=False)
    monkeypatch.setattr(second_verdict, "OWN", 2.0)  # nothing is
    nothing = uses(3, 0, progress=False)
    tables = (good.concepts, good.parities, good.verdicts, good.nothing)
    assert not mark(marks_of(*tables, everything), "causes", "decoys").passed
    assert not mark(marks_of(*tables, nothing), "causes", "hardly readable").passed
    assert [m.passed for m in marks_of(*tables)] == [m.passed for m in good.marks[:-2]]
