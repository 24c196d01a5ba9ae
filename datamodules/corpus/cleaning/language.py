"""The language of each document, told from its beginning."""

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datamodules.corpus.spans import character_starts, text_array, text_bytes
from datamodules.errors import DataError

if TYPE_CHECKING:
    from datamodules.corpus.cleaning.identifier import Identifier

LANGUAGE = pa.field("language", pa.string())
LANGUAGE_SCORE = pa.field("language_score", pa.float32())
UNDETERMINED = "und"  # ISO 639-2


@dataclass(frozen=True)
class Language:
    """Adds `language` (ISO 639-1, or "und" where the beginning has no letter) and `language_score`; extra `[lang]`.

    The labels are py3langid's, of the first `first_bytes` of the text, cut between two characters. The score is the
    probability among all languages of the model, 0 for "und". The model is loaded once per process.
    """

    first_bytes: int = 1024
    column: str = "text"

    def apply(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        heads = first_part(batch.column(self.column), self.first_bytes)
        with_letters = pc.match_substring_regex(heads, r"\p{L}")
        written = np.asarray(with_letters)
        languages = np.full(len(heads), UNDETERMINED, dtype=object)
        scores = np.zeros(len(heads), dtype=np.float32)
        languages[written], scores[written] = _identifier().classify(heads.filter(with_letters).to_pylist())
        batch = batch.append_column(LANGUAGE, pa.array(languages, LANGUAGE.type))
        return batch.append_column(LANGUAGE_SCORE, pa.array(scores, LANGUAGE_SCORE.type))


def first_part(text: pa.StringArray, size: int) -> pa.StringArray:
    """At most `size` bytes of the beginning of each text, whole characters only."""
    data, offsets = text_bytes(text)
    starts = offsets[:-1]
    ends = character_starts(data, np.minimum(offsets[1:], starts + size))
    pieces = [data[start:end].tobytes() for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]
    heads = np.concatenate(([0], np.cumsum(ends - starts)))
    return text_array(np.frombuffer(b"".join(pieces), dtype=np.uint8), heads)


@cache
def _identifier() -> "Identifier":
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError:
        raise DataError(
            "telling languages needs py3langid; pip install 'labyrinth-llm[lang]', or leave it out"
        ) from None
    from datamodules.corpus.cleaning.identifier import Identifier

    return Identifier(LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True))
