"""Texts of a report: none of them acts on a page, and what differs between two is marked."""

from hypothesis import given
from hypothesis import strategies as st
from support.reports import Page, sample

from datamodules.corpus.reporting.texts import UNSEEN, escaped, marked_differences, plain, shown


@given(st.text(st.characters(), max_size=40))
def test_any_text_can_be_shown(text: str) -> None:
    for markup in (shown(text), f"<b>{escaped(text)}</b>", *marked_differences(sample(text), sample("a b c " + text))):
        markup.encode()
        assert not UNSEEN.search(markup)
        assert {tag for tag, _ in Page(markup).elements} <= {"i", "mark", "b"}
    assert not UNSEEN.search(plain(text))
    assert "\n" not in plain(text)


def test_words_that_differ_are_marked() -> None:
    removed, kept = marked_differences(sample("one red hen ran"), sample("one blue hen ran off"))
    assert removed == "one <mark>red</mark> hen ran"
    assert kept == "one <mark>blue</mark> hen ran <mark>off</mark>"
    assert marked_differences(sample("漢字仮名"), sample("漢子仮名")) == (
        "漢<mark>字</mark>仮名",
        "漢<mark>子</mark>仮名",
    )
    assert marked_differences(sample("a  b\n"), sample("a b")) == ("a  b\n", "a b")


def test_what_lies_behind_the_end_of_a_sample_is_no_difference() -> None:
    cut = sample("one two thr", bytes=1000)
    assert marked_differences(cut, sample("one two three four", bytes=1000)) == ("one two thr", "one two three four")
    longer = marked_differences(cut, sample("one two three four"))
    assert longer == ("one two thr", "one two three four")
    shorter = marked_differences(sample("one"), sample("one two thr", bytes=1000))
    assert shorter == ("one", "one <mark>two</mark> thr")
    early = marked_differences(sample("x two thr", bytes=1000), sample("one two three", bytes=1000))
    assert early == ("<mark>x</mark> two thr", "<mark>one</mark> two three")
