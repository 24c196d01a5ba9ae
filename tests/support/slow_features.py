"""The features of quality filters for one document, in plain Python: what the vectorised ones are held to."""

import re
from collections import Counter

from datamodules.corpus.quality.characters import CLOSERS, SENTENCE_ENDS
from datamodules.corpus.quality.layout import STOP_WORDS


def slow_features(text: str) -> dict[str, int]:
    words = text.split()
    lines = [line for line in text.split("\n") if line.split()]
    paragraphs = paragraphs_of(text)
    repeated_lines = repeated(lines)
    repeated_paragraphs = repeated(paragraphs)
    features = {
        "characters": len(text),
        "newlines": text.count("\n"),
        "letters": sum(character.isalpha() for character in text),
        "numbers": sum(character.isalnum() and not character.isalpha() for character in text),
        "hash_signs": text.count("#"),
        "curly_brackets": text.count("{"),
        "ellipses": text.count("...") + text.count("…"),
        "lorem_ipsum": len(re.findall("lorem ipsum", text, re.IGNORECASE | re.ASCII)),
        "words": len(words),
        "word_characters": sum(len(word) for word in words),
        "letter_words": sum(any(character.isalpha() for character in word) for word in words),
        "stop_words": len(set(STOP_WORDS) & set(words)),
        "sentences": sentences(text, lines),
        "lines": len(lines),
        "longest_line": max((len(line) for line in lines), default=0),
        "short_lines": sum(len(line) <= 30 for line in lines),
        "bullet_lines": sum(line.strip().startswith(("•", "-")) for line in lines),
        "ellipsis_lines": sum(line.strip().endswith(("...", "…")) for line in lines),
        "ended_lines": sum(line.strip()[-1] in SENTENCE_ENDS for line in lines),
        "repeated_lines": len(repeated_lines),
        "repeated_line_characters": sum(map(len, repeated_lines)),
        "paragraphs": len(paragraphs),
        "repeated_paragraphs": len(repeated_paragraphs),
        "repeated_paragraph_characters": sum(map(len, repeated_paragraphs)),
    }
    features |= {f"top_{n}gram_characters": top(words, n) for n in (2, 3, 4)}
    return features | {f"repeated_{n}gram_characters": repeated_ngrams(words, n) for n in range(5, 11)}


def paragraphs_of(text: str) -> list[str]:
    paragraphs: list[list[str]] = [[]]
    for line in text.split("\n"):
        if line.split():
            paragraphs[-1].append(line)
        else:
            paragraphs.append([])
    return ["\n".join(lines) for lines in paragraphs if lines]


def repeated(parts: list[str]) -> list[str]:
    """The lines or paragraphs that have the words, line by line, of an earlier one."""
    seen, again = set(), []
    for part in parts:
        words = tuple(tuple(line.split()) for line in part.split("\n"))
        if words in seen:
            again.append(part)
        seen.add(words)
    return again


def sentences(text: str, lines: list[str]) -> int:
    count = 0
    for word in text.split():
        count += ends_sentence(word)
    return count + sum(not ends_sentence(line.split()[-1]) for line in lines)


def ends_sentence(word: str) -> bool:
    for closers in range(3):
        rest = word[: len(word) - closers]
        if rest and rest[-1] in SENTENCE_ENDS and all(character in CLOSERS for character in word[len(rest) :]):
            return True
    return False


def top(words: list[str], n: int) -> int:
    ngrams = Counter(tuple(words[start : start + n]) for start in range(len(words) - n + 1))
    if not ngrams:
        return 0
    [(ngram, count)] = ngrams.most_common(1)  # the first one of equals
    return len(" ".join(ngram)) * count


def repeated_ngrams(words: list[str], n: int) -> int:
    """Gopher's rule as datatrove has it: an n-gram that was read before counts, and its words are not read again."""
    read: set[tuple[str, ...]] = set()
    characters = start = 0
    while start + n <= len(words):
        ngram = tuple(words[start : start + n])
        if ngram in read:
            characters += sum(map(len, ngram))
            start += n
        else:
            read.add(ngram)
            start += 1
    return characters
