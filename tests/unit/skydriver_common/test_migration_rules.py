"""Migrations keep to the rules that let two releases work side by side, and nobody wait."""

import pytest

from skydriver_common.db.migrate import Migration, known_migrations
from tests.support import previous_release
from tests.support.migration_rules import created, problems, statements

_NEW = [migration for migration in known_migrations() if migration.name not in previous_release.MIGRATIONS]


@pytest.mark.parametrize("migration", _NEW, ids=lambda migration: migration.name)
def test_new_migrations_keep_to_the_rules(migration: Migration) -> None:
    made = {name for each in _NEW for name in created(each)}
    assert problems(migration, of_this_release=made, needable=previous_release.MIGRATIONS) == []


def test_the_migrations_of_the_release_before_are_all_there() -> None:
    names = {migration.name for migration in known_migrations()}
    assert names >= previous_release.MIGRATIONS
    assert all(migration.name > max(previous_release.MIGRATIONS) for migration in _NEW), "a new one comes after all others"


def _judged(text: str, name: str = "9001_common_test") -> list[str]:
    return problems(Migration(name, text), of_this_release={"ours"}, needable={"0076_dispatcher_one_throttle"})


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("ALTER TABLE manifests ADD COLUMN a jsonb GENERATED ALWAYS AS (json_of(body)) STORED", "rewrites"),
        ("ALTER TABLE event_log ADD a text; ALTER TABLE event_log ADD COLUMN b uuid DEFAULT gen_random_uuid()", "rewrite"),
        ("alter table due_work add column a timestamptz not null default clock_timestamp()", "rewrite"),
        ("ALTER TABLE event_log ADD COLUMN n bigint GENERATED ALWAYS AS IDENTITY", "identity"),
        ("ALTER TABLE blobs ADD COLUMN n bigserial", "identity"),
        ("ALTER TABLE blobs ADD COLUMN n text NOT NULL", "does not fill"),
        ("ALTER TABLE ONLY public.manifests ALTER COLUMN version TYPE bigint", "another type"),
        ("ALTER TABLE manifests ALTER version SET DATA TYPE bigint", "another type"),
        ("ALTER TABLE due_work SET UNLOGGED", "rewrites"),
        ("ALTER TABLE manifests ALTER COLUMN replaced_by SET NOT NULL", "reads the whole table"),
        ("ALTER TABLE manifests ADD CONSTRAINT c CHECK (version > 0)", "NOT VALID"),
        ("ALTER TABLE manifests ADD CONSTRAINT c UNIQUE (head_hash)", "USING INDEX"),
        ("CREATE INDEX a ON event_log (type)", "CONCURRENTLY"),
        ("CREATE UNIQUE INDEX a ON ONLY manifests USING btree (head_hash)", "CONCURRENTLY"),
        ("CREATE INDEX CONCURRENTLY a ON event_log (type); SELECT 1", "stands alone"),
        ("UPDATE manifests SET version = version", "many rows"),
        ("DO $$ BEGIN IF true THEN UPDATE manifests SET version = 1; END IF; END $$", "many rows"),
        ("DROP TABLE backlog", "the release before"),
        ("DROP FUNCTION claim_launch_v1(text, float8)", "the release before"),
        ("ALTER TABLE launch_throttle DROP COLUMN next_at", "the release before"),
        ("ALTER TABLE launch_throttle RENAME COLUMN next_at TO later", "the release before"),
        ("ALTER FUNCTION json_of(bytea) RENAME TO other", "the release before"),
        ("-- needs: 9000_common_just_made\nDROP TABLE backlog", "one release later"),
        ("BEGIN; SELECT 1; COMMIT", "the transaction is"),
        ("SET search_path = public", "SET LOCAL"),
        ("LOCK TABLE manifests", "for long"),
    ],
)
def test_what_would_hold_others_up_or_break_them_is_found(text: str, why: str) -> None:
    found = _judged(text)
    assert found
    assert any(why in line for line in found), found


@pytest.mark.parametrize(
    "text",
    [
        "ALTER TABLE manifests ADD COLUMN a text",
        "ALTER TABLE manifests ADD COLUMN a integer NOT NULL DEFAULT 0, ADD COLUMN b timestamptz DEFAULT now()",
        "ALTER TABLE due_work SET (fillfactor = 70); ALTER TABLE manifests ADD CONSTRAINT c CHECK (version > 0) NOT VALID",
        "ALTER TABLE manifests VALIDATE CONSTRAINT c",
        "ALTER TABLE manifests ADD CONSTRAINT c UNIQUE USING INDEX manifests_once",
        "-- transactional: false\nCREATE INDEX CONCURRENTLY IF NOT EXISTS a ON event_log (type);",
        "DROP INDEX CONCURRENTLY IF EXISTS a; CREATE INDEX CONCURRENTLY a ON event_log (type)",
        "DROP INDEX CONCURRENTLY IF EXISTS a",
        "CREATE TABLE ours (a text); CREATE INDEX b ON ours (a); DROP TABLE ours",
        "-- needs: 0076_dispatcher_one_throttle\nDROP TABLE backlog",
        "CREATE OR REPLACE FUNCTION f() RETURNS void LANGUAGE plpgsql AS $$ BEGIN UPDATE manifests SET version = 1; END $$",
        "SET LOCAL lock_timeout = '2s'; COMMENT ON TABLE manifests IS 'a; DROP TABLE backlog'",
    ],
)
def test_what_is_harmless_passes(text: str) -> None:
    assert _judged(text) == []


def test_statements_are_told_apart_by_what_is_no_text_of_theirs() -> None:
    text = "SELECT ';' -- ; one\n, 'it''s;'; CREATE FUNCTION f() AS $x$ a; $$ b; $$ $x$; DO $$ BEGIN a; b; END $$;"
    assert list(statements(text)) == ["SELECT ';' , 'it''s;'", "CREATE FUNCTION f() AS $$", "a", "b"]


def test_a_name_says_who_owns_it() -> None:
    assert _judged("SELECT 1", name="91_no_owner") == ["its name is not NNNN_<owner>_<what>"]
