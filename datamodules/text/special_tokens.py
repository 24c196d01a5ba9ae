"""The tokens that no raw text ever yields."""

END_OF_TEXT = "<|endoftext|>"  # opens the stream and ends each document
PAD = "<|pad|>"  # fills a row; never the end of anything
SYSTEM = "<|system|>"
USER = "<|user|>"
ASSISTANT = "<|assistant|>"
END = "<|end|>"  # ends a turn of a conversation

# Their ids are 0 to 5 in this order in every tokenizer trained here; they count in the vocabulary size.
SPECIAL_TOKENS = (END_OF_TEXT, PAD, SYSTEM, USER, ASSISTANT, END)
