"""Every label is compared with py3langid's own `classify` and `rank`, one text at a time."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from py3langid.langid import MODEL_FILE, LanguageIdentifier

from datamodules.corpus.cleaning import identifier as module
from datamodules.corpus.cleaning.identifier import Identifier

SENTENCES = [
    "The old man walked slowly through the village and looked at the houses.",
    "Der alte Mann ging langsam durch das Dorf und sah sich die Häuser an.",
    "Le vieil homme marchait lentement dans le village et regardait les maisons.",
    "El viejo caminaba despacio por el pueblo y miraba las casas.",
    "O velho caminhava devagar pela aldeia e olhava para as casas.",
    "Il vecchio camminava lentamente per il paese e guardava le case.",
    "De oude man liep langzaam door het dorp en keek naar de huizen.",
    "Den gamle mannen gick långsamt genom byn och tittade på husen.",
    "Stary człowiek szedł powoli przez wieś i patrzył na domy.",
    "Starý muž šel pomalu vesnicí a díval se na domy.",
    "Az öregember lassan ment végig a falun, és nézte a házakat.",
    "Vanha mies käveli hitaasti kylän läpi ja katseli taloja.",
    "Yaşlı adam köyün içinden yavaşça yürüdü ve evlere baktı.",
    "Ông già đi chậm rãi qua làng và nhìn những ngôi nhà.",
    "Старик медленно шёл по деревне и смотрел на дома.",
    "Старий повільно йшов селом і дивився на будинки.",
    "Старац је полако ишао кроз село и гледао куће.",
    "Starac je polako išao kroz selo i gledao kuće.",
    "Ο γέρος περπατούσε αργά μέσα στο χωριό και κοίταζε τα σπίτια.",
    "سار الرجل العجوز ببطء عبر القرية ونظر إلى البيوت.",
    "پیرمرد آهسته از میان روستا گذشت و به خانه‌ها نگاه کرد.",
    "הזקן הלך לאט דרך הכפר והסתכל על הבתים.",
    "बूढ़ा आदमी धीरे-धीरे गाँव से गुज़रा और घरों को देखा।",
    "বৃদ্ধ লোকটি ধীরে ধীরে গ্রামের মধ্য দিয়ে হেঁটে গেল।",
    "முதியவர் கிராமத்தின் வழியாக மெதுவாக நடந்தார்.",
    "ชายชราเดินช้า ๆ ผ่านหมู่บ้านและมองดูบ้านเรือน",
    "これは日本語の文章です。",
    "老人慢慢地走过村庄,看着房子。",
    "노인은 천천히 마을을 지나며 집들을 바라보았다.",
    "მოხუცი ნელა მიდიოდა სოფელში და სახლებს უყურებდა.",
    "Ծերունին դանդաղ քայլում էր գյուղով և նայում տներին։",
    "ሽማግሌው ቀስ ብሎ በመንደሩ ውስጥ ሄደ።",
    "THE OLD MAN WALKED SLOWLY THROUGH THE VILLAGE.",
    "СТАРИК МЕДЛЕННО ШЁЛ ПО ДЕРЕВНЕ.",
    "Ha\u0308user und Do\u0308rfer, mit Akzenten als eigene Zeichen",  # not composed
]
ODDITIES = [
    "",
    "qxq",  # nothing that the model knows
    "a",
    "é",
    "中",
    " ",
    "\x00",
    "\x00\x00the\x00house\x00",
    "\U0001f600",
    "\U0001f600 \U0001f468\u200d\U0001f469\u200d\U0001f467 wonderful!",
    "\u16a0\u16a2\u16a6",
    "123 + 4 = ?",
    "I",
    "\u0130\u0130",  # capitals that become two characters each
    "\ufffd",
    "\U0010ffff",
    "aaaa" * 100,
    "the house das Haus " * 7,
]
MIXTURES = [one + " " + other for one in SENTENCES[:8] for other in SENTENCES[:8]]


@pytest.fixture(scope="module")
def theirs() -> LanguageIdentifier:
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


@pytest.fixture(scope="module")
def ours(theirs: LanguageIdentifier) -> Identifier:
    return Identifier(theirs)


@pytest.fixture
def asked(theirs: LanguageIdentifier, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The texts for which py3langid was called."""
    texts: list[str] = []
    classify = LanguageIdentifier.classify

    def recorded(self: LanguageIdentifier, text: str) -> Any:
        texts.append(text)
        return classify(self, text)

    monkeypatch.setattr(LanguageIdentifier, "classify", recorded)
    return texts


def assert_same(ours: Identifier, theirs: LanguageIdentifier, texts: list[str]) -> None:
    languages, scores = ours.classify(texts)
    assert scores.dtype == np.float32
    expected = [theirs.classify(text) for text in texts]
    assert languages == [language for language, _ in expected]
    assert languages == [theirs.rank(text)[0][0] for text in texts]
    np.testing.assert_allclose(scores, [score for _, score in expected], rtol=0, atol=2e-5)


def test_sentences_of_many_languages_and_scripts(ours: Identifier, theirs: LanguageIdentifier) -> None:
    assert len({theirs.classify(sentence)[0] for sentence in SENTENCES}) >= 28
    assert_same(ours, theirs, SENTENCES)


def test_oddities_and_mixtures(ours: Identifier, theirs: LanguageIdentifier) -> None:
    assert_same(ours, theirs, ODDITIES + MIXTURES)


def test_every_prefix(ours: Identifier, theirs: LanguageIdentifier) -> None:
    assert_same(ours, theirs, [text[:end] for text in SENTENCES[::4] for end in range(len(text))])


def test_real_texts(shared_data: Path, ours: Identifier, theirs: LanguageIdentifier) -> None:
    lines = (shared_data / "c4-sample" / "c4_demo.jsonl").read_text().splitlines()
    texts = [json.loads(line)["text"][:1000] for line in lines]
    novels = [path.read_text() for path in sorted((shared_data / "novels").glob("*_1*.txt"))]
    texts += [novel[start : start + 1000] for novel in novels for start in range(0, len(novel), 40_000)]
    texts += (shared_data / "tinystories" / "tinystories_10k.txt").read_text().split("<|endoftext|>")[:100]
    texts += (shared_data / "sms-spam" / "SMSSpamCollection").read_text().splitlines()[:200]
    assert len(texts) > 600
    assert_same(ours, theirs, texts)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.one_of(st.text(max_size=200), st.sampled_from(SENTENCES)), max_size=6))
def test_arbitrary_texts(ours: Identifier, theirs: LanguageIdentifier, texts: list[str]) -> None:
    assert_same(ours, theirs, texts)


@settings(max_examples=50, deadline=None)
@given(st.permutations(SENTENCES[:12] + ODDITIES), st.integers(0, 30))
def test_neighbours_change_nothing(ours: Identifier, texts: list[str], cut: int) -> None:
    languages, scores = ours.classify(texts)
    halves = ours.classify(texts[:cut]), ours.classify(texts[cut:])
    assert languages == halves[0][0] + halves[1][0]
    assert scores.tolist() == halves[0][1].tolist() + halves[1][1].tolist()  # to the last bit


@pytest.mark.parametrize("lanes", [1, 3, 50])
def test_blocks_change_nothing(ours: Identifier, monkeypatch: pytest.MonkeyPatch, lanes: int) -> None:
    texts = SENTENCES + ODDITIES + [" ".join(SENTENCES)]
    languages, scores = ours.classify(texts)
    monkeypatch.setattr(module, "LANES", lanes)
    in_blocks = ours.classify(texts)
    assert languages == in_blocks[0]
    assert scores.tolist() == in_blocks[1].tolist()


@pytest.mark.parametrize("piece", [6, 7, 64, 1000])
def test_the_length_of_a_piece_changes_nothing(
    ours: Identifier, theirs: LanguageIdentifier, monkeypatch: pytest.MonkeyPatch, asked: list[str], piece: int
) -> None:
    monkeypatch.setattr(module, "PIECE", piece)
    ours.classify(SENTENCES)
    assert not asked
    assert_same(ours, theirs, SENTENCES + ODDITIES)


def test_py3langid_is_asked_where_lanes_began_in_the_wrong_state(
    ours: Identifier, theirs: LanguageIdentifier, monkeypatch: pytest.MonkeyPatch, asked: list[str]
) -> None:
    ours.classify(SENTENCES)
    assert not asked
    monkeypatch.setattr(module, "WARM_UP", 0)
    ours.classify(SENTENCES)
    assert len(asked) > len(SENTENCES) // 2
    assert_same(ours, theirs, SENTENCES)


def test_py3langid_is_asked_where_two_are_close_or_nothing_is_known(ours: Identifier, asked: list[str]) -> None:
    close = ["para as casas.", " paese e g", "A", ""]
    assert ours.classify([SENTENCES[0], *close])[0][0] == "en"
    assert asked == close


def test_no_texts(ours: Identifier) -> None:
    languages, scores = ours.classify([])
    assert languages == []
    assert scores.shape == (0,)
