"""Queries of /audit."""

from __future__ import annotations

from pydantic import Field

from services.api.parameters import Integer, OptionalInteger, QueryModel


class FollowQuery(QueryModel):
    first: OptionalInteger = Field(None, alias="from", description="The number to begin with; the next one by default.")
    wait: OptionalInteger = Field(None, description="Answer once, within that many seconds, and do not follow.")
    limit: Integer = Field(0, description="How many records at most, with wait.")


class CheckpointsQuery(QueryModel):
    size: Integer = Field(0, alias="from", description="The least size of the log.")
    limit: Integer = Field(100, description="How many at most, up to 1000.")


class InclusionQuery(QueryModel):
    number: Integer = Field(0, description="The record's number.")
    size: Integer = Field(0, description="The log's size; that of its newest checkpoint by default.")


class ConsistencyQuery(QueryModel):
    first: Integer = Field(0, description="The smaller size.")
    second: Integer = Field(0, description="The larger one; that of the newest checkpoint by default.")


class ExportQuery(QueryModel):
    first: Integer = Field(0, alias="from", description="The first record.")
    end: Integer = Field(0, alias="to", description="The one after the last; all that is signed by default.")
