"""Names that attack Markdown and YAML through the card: they are text there, and nothing else."""

import dataclasses
import json
import re

import numpy as np
import pytest
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

from graticule.hooks.messages import visible
from graticule.hub.card import card
from graticule.hub.markdown import code, table, text
from graticule.hub.uploads import ProbeFacts, SaeFacts, Upload, hub_dataset

from ..payloads import PAYLOADS

HOSTS = (
    "https://huggingface.co/",
    "https://arxiv.org/",
    "https://github.com/",
    "https://transformer-circuits.pub/",
)
OURS = re.compile(r"<!-- graticule:(begin|end|list|end-list)[^\n]* -->|</?code>")


def reader() -> MarkdownIt:
    """CommonMark with tables, raw HTML let through: the most that a reader of cards may do."""
    return MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])


def tokens(source: str) -> list:
    out, left = [], reader().parse(source)
    while left:
        token = left.pop(0)
        out.append(token)
        left = [*(token.children or []), *left]
    return out


def read(source: str) -> str:
    """What a person reads: text and code, after entities and escapes."""
    words = {"text", "code_inline", "text_special", "fence"}
    return "".join(
        t.content if t.type in words else "" if t.type.startswith("html") else " " for t in tokens(source)
    )


def attacks(source: str) -> list[str]:
    """All in a card that is more than text and was not put there by us."""
    found = []
    for token in tokens(source):
        if token.type in ("html_block", "html_inline"):
            left = OURS.sub("", token.content).strip()
            found += [left] if left else []
        elif token.type == "link_open" and not str(token.attrs["href"]).startswith(HOSTS):
            found.append(str(token.attrs["href"]))
        elif token.type == "image" and not str(token.attrs["src"]).endswith("/density.png"):
            found.append(str(token.attrs["src"]))
        elif token.type == "inline" and re.search(
            r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b\u202a-\u202e\u2066-\u2069]", token.content
        ):
            found.append(repr(token.content))
    return found


def outline(source: str) -> list[str]:
    """The shape of a card: its blocks in order."""
    return [t.type + t.tag for t in reader().parse(source)]


def sae(word: str) -> Upload:
    """An SAE all of whose words are `word`."""
    facts = SaeFacts(
        cfg={
            "architecture": word,
            "d_sae": word,
            "metadata": {"model_name": word, "hook_name": word, "dataset_path": word, "context_size": word,
                         "sae_lens_version": word, "training_architecture": f"{word}2"},
        },
        runner={"lr": word},
        run={"tokens": 5, "versions": {word: word}},
        evaluation={"l0": 3.0, "corpus": word, "n_rows": 9},
        last={word: 1.0},
        dataset=hub_dataset(word),
    )  # fmt: skip
    return Upload("blocks.9.hook_resid_post", None, {}, facts)


def probe(word: str) -> Upload:
    """A probe all of whose words are `word`."""
    verdict = {"words": word, "score": 0.5, "surface": 0.25, "gain": 0.25, "ci95": [0.1, 0.4],
               "min_gain": 0.01, "clusters": 9, "warnings": [word, word]}  # fmt: skip
    judged = {"model": word, "table": word, "split": word, "verdict": verdict,
              "baselines": {word: {"point": word, "test": {"r2": 0.1}}}}  # fmt: skip
    manifest = {"hook_name": word, "target_names": [word, word], "units": [word, None], "n_rows": 9,
                "versions": {word: word}}  # fmt: skip
    return Upload("probes/one", None, {}, ProbeFacts(manifest, judged, (0.5, 0.25)))


@pytest.mark.parametrize("what", PAYLOADS)
def test_a_name_is_only_text_in_a_card(what):
    word = PAYLOADS[what]
    made = card("user/my-saes", [sae(word), probe(word)], licence="mit")
    assert attacks(made.split("\n---\n", 1)[1]) == []
    plain = card("user/my-saes", [sae("word"), probe("word")], licence="mit")
    assert outline(made.split("\n---\n", 1)[1]) == outline(plain.split("\n---\n", 1)[1])
    seen = read(made.split("\n---\n", 1)[1])
    assert seen.count(visible(word)) >= 20, seen
    front = ModelCard(made).data
    assert (front.license, front.model_name, front.base_model, front.datasets) == (
        "mit",
        "my-saes",
        None,
        None,
    )
    assert {r.dataset_name for r in front.eval_results} == {visible(word)}
    made.encode("utf-8")


@pytest.mark.parametrize("what", PAYLOADS)
def test_a_card_does_not_grow(what):
    word = PAYLOADS[what]
    subjects = [sae(word), probe(word)]
    first = card("user/my-saes", subjects)
    assert card("user/my-saes", subjects, existing=first) == first
    assert card("user/my-saes", [subjects[0]], existing=first) == first
    again = card("user/my-saes", [subjects[1]], existing=first.replace("\n", "\r\n"))
    assert again == first  # as an editor in a browser saves it


def test_marks_in_what_people_wrote_stay_where_they_are():
    first = card("user/my-saes", [sae("word")])
    edited = first + "\nThe mark `<!-- graticule:end blocks.9.hook_resid_post -->` ends a part.\n"
    again = card("user/my-saes", [sae("other")], existing=edited)
    assert again.count("ends a part") == 1
    assert again.count("## blocks.9") == 1


@pytest.mark.parametrize("what", PAYLOADS)
def test_words_and_code_read_as_they_are(what):
    word = PAYLOADS[what]
    for write in (text, code):
        line = f"- before {write(word)} after"
        assert attacks(line) == []
        assert read(line).strip() == f"before {visible(word)} after"
        rows = "\n".join(table(("a", "b"), [(write(word), "end")]))
        cells = [t.content for t in reader().parse(rows) if t.type == "inline"]
        assert len(cells) == 4
        assert cells[3] == "end"
        assert visible(word) in read(rows)


@pytest.mark.parametrize(
    "word", ["", " ", "`", "``", "a`", "`a", "\\", "a\\", "|", "a\\|b", "_", "_a_", "a_b", "-->", "#", "1. a"]
)
def test_short_words(word):
    for write in (text, code):
        assert read(f"x {write(word)} y").split() == f"x {visible(word)} y".split()
        assert len(
            [
                t
                for t in reader().parse("\n".join(table(("a", "b"), [(write(word), "end")])))
                if t.type == "inline"
            ]
        ) in (3, 4)


class TestVisible:
    @pytest.mark.parametrize("word", ["naïve", "東京", "نمی\u200cخواهم", "👩\u200d🚀", "a b", "क्\u200dष"])
    def test_what_people_write_stays(self, word):
        assert visible(word) == word

    @pytest.mark.parametrize(
        ("word", "expected"),
        [
            ("\x1b[31m", "\\x1b[31m"),
            ("a\u202eb", "a\\u202eb"),
            ("zero\u200bwidth\u200d", "zero\\u200bwidth\\u200d"),
            ("\U000e0041", "\\U000e0041"),
            ("\udc80", "\\udc80"),
            ("a\n\tb\r\nc", "a b c"),
            ("a\u2028b", "a\\u2028b"),
        ],
    )
    def test_what_hides_is_seen(self, word, expected):
        assert visible(word) == expected
        assert visible(word).isprintable()

    def test_lines_stay_where_they_are_wanted(self):
        assert visible("a\r\n\tb\x1b", lines=True) == "a\n\tb\\x1b"


def test_a_verdict_that_lacks_something_is_refused_in_one_line(tmp_path):
    from graticule.hub.uploads import gather
    from graticule.probes.linear.ridge import RidgeProbe

    rng = np.random.default_rng(0)
    one = RidgeProbe("blocks.0.hook_mlp_out", ("north",)).fit(rng.normal(size=(30, 4)), rng.normal(size=30))
    one.save(tmp_path / "probe")
    whole = probe("word").facts.judged
    for name in whole["verdict"]:
        lacking = {**whole, "verdict": {k: v for k, v in whole["verdict"].items() if k != name}}
        (tmp_path / "probe" / "verdict.json").write_text(json.dumps(lacking))
        if name == "warnings":
            assert gather(tmp_path / "probe")
            continue
        with pytest.raises(ValueError, match=rf"verdict\.json.*{name}"):
            gather(tmp_path / "probe")


def test_the_tokens_of_a_run_are_those_it_was_trained_on():
    facts = dataclasses.replace(
        sae("word").facts,
        runner={"training_tokens": 60_000},
        run={"tokens": 59_904, "request": {"trainer": {"total_training_samples": 60_000}}},
    )
    made = card("user/my-saes", [Upload("x", None, {}, facts)])
    assert "trained on 59,904 tokens" in made
    assert "60,000" not in made
