"""Text to ids: the tokenizer's files, its engines, and the encoding of examples under the serving contract."""

from sftdata.tokenizers.documents import EncodedExamples
from sftdata.tokenizers.encode import Encoder
from sftdata.tokenizers.engines import Engine, EngineMismatch, ReferenceEngine, choose_engine
from sftdata.tokenizers.origin import TokenizerFiles, load_files
from sftdata.tokenizers.vocabulary import AddedToken, Vocabulary, load_vocabulary

__all__ = [
    "AddedToken",
    "EncodedExamples",
    "Encoder",
    "Engine",
    "EngineMismatch",
    "ReferenceEngine",
    "TokenizerFiles",
    "Vocabulary",
    "choose_engine",
    "load_files",
    "load_vocabulary",
]
