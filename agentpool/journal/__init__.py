"""Journals: what happened in a run, kept so that the run can go on after any crash."""

from agentpool.journal.sqlite import SqliteJournal as SqliteJournal
from agentpool.journal.sqlite import read_journal as read_journal
