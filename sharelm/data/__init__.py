"""Corpora -> splits -> tokenizer -> packed token shards, named by digest."""

from sharelm.data.build import data_spec, prepare
from sharelm.data.corpus import Corpus, open_corpus
from sharelm.data.documents import Document
from sharelm.data.shards import TokenRows
from sharelm.data.sources import read_documents

__all__ = ["Corpus", "Document", "TokenRows", "data_spec", "open_corpus", "prepare", "read_documents"]
