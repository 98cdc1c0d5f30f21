-- Named changes of the registry, which can be taken back: what the files of `rowcast model migration` call. ml.begin_change() notes the transaction;
-- row triggers journal what it does to the registry's tables; ml.revert_change() plays that back in reverse order, and refuses where something else
-- has come to rest on it. The triggers are on tables that only change when a person changes a model, not on what predictions read.

CREATE OR REPLACE FUNCTION ml_private.open_change() RETURNS text
LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- Both, because a restored database counts its transactions anew. The last begun counts: a dry run begins several.
    RETURN (SELECT c.name FROM ml_private.change c
            WHERE c.xact = pg_current_xact_id_if_assigned() AND c.begun_at = transaction_timestamp() ORDER BY c.number DESC LIMIT 1);
END $$;
COMMENT ON FUNCTION ml_private.open_change() IS 'The change that this transaction makes, NULL where it makes none.';

-- Columns as text, because that is exact: a jsonb column that holds null is not the same as no value.
CREATE OR REPLACE FUNCTION ml_private.journal() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp SET bytea_output = 'hex' SET datestyle = 'ISO' SET timezone = 'UTC' SET intervalstyle = 'postgres'
    SET extra_float_digits = 1
AS $$
DECLARE
    open   text := ml_private.open_change();
    names  text[];
    cells  text;
    was    jsonb;
    became jsonb;
    operational text[] := coalesce(TG_ARGV[0:TG_NARGS - 1], '{}');
BEGIN
    IF open IS NULL THEN
        RETURN NULL;
    END IF;
    SELECT array_agg(a.attname ORDER BY a.attnum), string_agg(format('($1).%I::text', a.attname), ', ' ORDER BY a.attnum) INTO names, cells
    FROM pg_attribute a
    WHERE a.attrelid = TG_RELID AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '';
    IF TG_OP <> 'INSERT' THEN
        EXECUTE 'SELECT jsonb_object($2, ARRAY[' || cells || '])' INTO was USING OLD, names;
    END IF;
    IF TG_OP <> 'DELETE' THEN
        EXECUTE 'SELECT jsonb_object($2, ARRAY[' || cells || '])' INTO became USING NEW, names;
        -- The trigger's arguments are columns in which the sidecar keeps its place: no part of the change. A deleted row comes back with all.
        became := became - operational;
        IF TG_OP = 'UPDATE' THEN
            was := was - operational;
            IF was = became THEN
                RETURN NULL;
            END IF;
        END IF;
    END IF;
    IF TG_TABLE_NAME = 'version' AND TG_OP = 'DELETE' THEN
        -- The file that is run, and the one that it was made of.
        INSERT INTO ml_private.change_artifact (change, sha256)
        SELECT open, e.value::bytea FROM jsonb_each_text(was) e WHERE e.key IN ('sha256', 'source_sha256') AND e.value IS NOT NULL
        ON CONFLICT DO NOTHING;
    END IF;
    INSERT INTO ml_private.change_row (change, number, relation, operation, before, after)
    VALUES (open, (SELECT coalesce(max(r.number), 0) + 1 FROM ml_private.change_row r WHERE r.change = open), TG_TABLE_NAME, TG_OP, was, became);
    RETURN NULL;
END $$;
COMMENT ON FUNCTION ml_private.journal() IS 'Row trigger: notes what a change does to a row.';

CREATE OR REPLACE FUNCTION ml_private.keep_artifact() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    open text := ml_private.open_change();
BEGIN
    IF open IS NOT NULL THEN
        INSERT INTO ml_private.change_artifact (change, sha256) VALUES (open, OLD.sha256) ON CONFLICT DO NOTHING;
    END IF;
    IF EXISTS (SELECT FROM ml_private.change_artifact k WHERE k.sha256 = OLD.sha256) THEN
        RETURN NULL;
    END IF;
    RETURN OLD;
END $$;
COMMENT ON FUNCTION ml_private.keep_artifact() IS 'Row trigger: keeps the bytes that taking a change back needs.';

-- Attaches the journal to a table of ml_private. operational names columns that the sidecar keeps for itself (when a schedule runs next): their
-- changes are neither noted nor compared. The foreign keys become deferrable, so that rows can come back in any order.
CREATE OR REPLACE FUNCTION ml_private.journal_table(relation text, operational text[] DEFAULT '{}') RETURNS void
LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    id regclass := to_regclass(format('ml_private.%I', relation));
    k  name;
BEGIN
    IF id IS NULL THEN
        RETURN;
    END IF;
    IF NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = id AND i.indisprimary) THEN
        RAISE EXCEPTION 'table % has no primary key and cannot be journaled', id USING ERRCODE = '55000';
    END IF;
    -- The name sorts after RI_ConstraintTrigger…: what a foreign key deletes is noted before the row that it hung on, and comes back after it.
    EXECUTE format('CREATE OR REPLACE TRIGGER rowcast_journal AFTER INSERT OR UPDATE %s ON %s FOR EACH ROW EXECUTE FUNCTION ml_private.journal(%s)',
        CASE relation WHEN 'artifact' THEN '' ELSE 'OR DELETE' END, id, (SELECT string_agg(quote_literal(o), ', ') FROM unnest(operational) o));
    FOR k IN SELECT c.conname FROM pg_constraint c WHERE c.conrelid = id AND c.contype = 'f' AND NOT c.condeferrable LOOP
        EXECUTE format('ALTER TABLE %s ALTER CONSTRAINT %I DEFERRABLE INITIALLY IMMEDIATE', id, k);
    END LOOP;
END $$;
COMMENT ON FUNCTION ml_private.journal_table(text, text[]) IS 'Attaches the journal of changes to a table.';

-- Every table in which the SQL API keeps what people decide, with what the sidecars note there about their own work. A table that is not there yet,
-- or no more, is passed over.
SELECT ml_private.journal_table(t.relation, t.operational)
FROM (VALUES ('model', '{}'::text[]), ('version', '{}'), ('alias_history', '{}'), ('alias', '{}'), ('model_grant', '{}'), ('artifact', '{}'),
             ('schedule', '{next_at,last_at,error,sqlstate}'), ('log_policy', '{}'), ('prediction_grant', '{}'), ('bi_column', '{}'),
             ('dropped_model', '{}')) AS t(relation, operational);

-- Jobs are no part of the registry and stay when their model or schedule is dropped, but then forget which it was. That alone is noted of them.
DO $$
DECLARE
    k name;
BEGIN
    IF to_regclass('ml_private.job') IS NOT NULL THEN
        EXECUTE format('CREATE OR REPLACE TRIGGER rowcast_journal_owner AFTER UPDATE OF model_id, schedule_id ON ml_private.job FOR EACH ROW '
                       'WHEN (OLD.model_id IS DISTINCT FROM NEW.model_id OR OLD.schedule_id IS DISTINCT FROM NEW.schedule_id) '
                       'EXECUTE FUNCTION ml_private.journal(%s)',
                       (SELECT string_agg(quote_literal(a.attname), ', ') FROM pg_attribute a
                        WHERE a.attrelid = 'ml_private.job'::regclass AND a.attnum > 0 AND NOT a.attisdropped
                          AND a.attname NOT IN ('id', 'model_id', 'schedule_id')));
        FOR k IN SELECT c.conname FROM pg_constraint c
                 WHERE c.conrelid = 'ml_private.job'::regclass AND c.contype = 'f' AND NOT c.condeferrable LOOP
            EXECUTE format('ALTER TABLE ml_private.job ALTER CONSTRAINT %I DEFERRABLE INITIALLY IMMEDIATE', k);
        END LOOP;
    END IF;
END $$;

CREATE OR REPLACE TRIGGER rowcast_keep BEFORE DELETE ON ml_private.artifact FOR EACH ROW EXECUTE FUNCTION ml_private.keep_artifact();

-- Where the identity columns of the journaled tables are.
CREATE OR REPLACE FUNCTION ml_private.numbers() RETURNS TABLE (relation text, attribute name, last_value bigint, is_called boolean)
LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    FOR relation, attribute IN
        SELECT c.relname, a.attname
        FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_attribute a ON a.attrelid = c.oid
        WHERE t.tgname = 'rowcast_journal' AND c.relnamespace = 'ml_private'::regnamespace AND a.attidentity <> '' AND NOT a.attisdropped
    LOOP
        EXECUTE 'SELECT s.last_value, s.is_called FROM ' || pg_get_serial_sequence(format('ml_private.%I', relation), attribute) || ' s'
            INTO last_value, is_called;
        RETURN NEXT;
    END LOOP;
END $$;
COMMENT ON FUNCTION ml_private.numbers() IS 'Where the identity columns of the journaled tables are.';

-- Nobody may take a number while the sequence goes back; who has taken one is waited for.
CREATE OR REPLACE FUNCTION ml_private.hold_numbers(relation text) RETURNS void
LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$ BEGIN EXECUTE format('LOCK TABLE ml_private.%I IN SHARE ROW EXCLUSIVE MODE', relation); END $$;
COMMENT ON FUNCTION ml_private.hold_numbers(text) IS 'Lets nobody else add rows to a table until the end of the transaction.';

-- Puts an identity column back, for a caller who holds its numbers; leaves it where a row has a number beyond.
CREATE OR REPLACE FUNCTION ml_private.rewind(relation text, attribute name, last_value bigint, is_called boolean) RETURNS void
LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    sequence text := pg_get_serial_sequence(format('ml_private.%I', relation), attribute);
    beyond   boolean;
    kept     regclass;
BEGIN
    EXECUTE format('SELECT EXISTS (SELECT FROM ml_private.%I t WHERE t.%I %s $1)
                        OR (SELECT (s.last_value, s.is_called) <= ($1, $2) FROM %s s)',
                   relation, attribute, CASE WHEN is_called THEN '>' ELSE '>=' END, sequence)
        INTO beyond USING last_value, is_called;
    IF relation = 'model' THEN
        -- What is kept of a model that was dropped since must not become another model's.
        FOR kept IN
            SELECT t.oid::regclass FROM pg_class t JOIN pg_attribute a ON a.attrelid = t.oid
            WHERE t.relnamespace = 'ml_private'::regnamespace AND t.relkind IN ('r', 'p') AND NOT t.relispartition
              AND a.attname = 'model_id' AND a.atttypid = 'bigint'::regtype AND NOT a.attisdropped
        LOOP
            EXIT WHEN beyond;
            EXECUTE format('SELECT EXISTS (SELECT FROM %s t WHERE t.model_id %s $1)', kept, CASE WHEN is_called THEN '>' ELSE '>=' END)
                INTO beyond USING last_value;
        END LOOP;
    END IF;
    IF NOT beyond THEN
        -- RESTART is undone by a ROLLBACK, setval() alone would not be: it writes to the file that RESTART has made for this transaction.
        EXECUTE format('ALTER SEQUENCE %s RESTART WITH %s', sequence, last_value);
        PERFORM setval(sequence, last_value, is_called);
    END IF;
END $$;
COMMENT ON FUNCTION ml_private.rewind(text, name, bigint, boolean) IS 'Puts an identity column back to where it was.';

CREATE OR REPLACE FUNCTION ml.numbers() RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    who name := ml_private.changer();
BEGIN
    IF NOT ml_private.is_admin(who) THEN
        RETURN '[]';
    END IF;
    RETURN (SELECT coalesce(jsonb_agg(n), '[]') FROM ml_private.numbers() n);
END $$;
COMMENT ON FUNCTION ml.numbers() IS $$Where the registry's internal ids are, for ml.rewind(); empty for others than ml_admin.
Example: SELECT ml.numbers();$$;

CREATE OR REPLACE FUNCTION ml.rewind(numbers jsonb) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s'
AS $$
DECLARE
    who name := ml_private.changer();
BEGIN
    IF NOT ml_private.is_admin(who) THEN
        RETURN;
    END IF;
    PERFORM ml_private.hold_numbers(n.relation)
    FROM (SELECT n.relation FROM jsonb_to_recordset(numbers) AS n(relation text, last_value bigint, is_called boolean)
          JOIN ml_private.numbers() now USING (relation)
          WHERE (now.last_value, now.is_called) > (n.last_value, n.is_called)
          ORDER BY coalesce(array_position(ARRAY['model', 'version', 'alias_history'], n.relation), 9), n.relation) n;
    PERFORM ml_private.rewind(n.relation, n.attribute, n.last_value, n.is_called)
    FROM jsonb_to_recordset(numbers) AS n(relation text, attribute name, last_value bigint, is_called boolean)
    JOIN ml_private.numbers() now USING (relation, attribute)
    WHERE (now.last_value, now.is_called) > (n.last_value, n.is_called);
EXCEPTION WHEN lock_not_available THEN
    NULL; -- somebody registers, and takes the next numbers
END $$;
COMMENT ON FUNCTION ml.rewind(jsonb) IS $$Gives back the internal ids that a rolled-back transaction took, where nobody has taken others since: `rowcast model migration` calls it after a plan or a failed step.
Example: SELECT ml.rewind('[{"relation": "version", "attribute": "id", "last_value": 7, "is_called": true}]');$$;

CREATE OR REPLACE FUNCTION ml.begin_change(name text, checksum text DEFAULT NULL) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    who   name := ml_private.changer();
    prior ml_private.change;
    text_ text := replace(current_query(), E'\r\n', E'\n');
    sum   bytea;
BEGIN
    IF NOT ml_private.is_admin(who) AND NOT EXISTS (SELECT FROM ml_private.model m WHERE pg_has_role(who, m.owner::oid, 'USAGE')) THEN
        RAISE EXCEPTION 'permission denied to begin a change of models' USING ERRCODE = '42501', HINT = format('GRANT ml_admin TO %I; allows it.', who);
    END IF;
    IF coalesce(length(name), 0) NOT BETWEEN 1 AND 200 THEN
        RAISE EXCEPTION 'a change needs a name of 1 to 200 characters' USING ERRCODE = '22023', HINT = 'SELECT ml.begin_change(''000002_churn_v2'');';
    END IF;
    IF checksum !~ '^[0-9a-f]{64}$' THEN
        RAISE EXCEPTION '"%" is not a SHA-256', checksum USING ERRCODE = '22023', HINT = 'Write 64 lower-case hexadecimal digits.';
    END IF;
    IF ml_private.open_change() = name THEN
        RETURN; -- `rowcast model migration` has begun it before it ran the file
    END IF;
    SELECT * INTO prior FROM ml_private.change c WHERE c.name = begin_change.name;
    IF prior.name IS NOT NULL THEN
        RAISE EXCEPTION 'the change "%" was made already', name
            USING ERRCODE = '42710', DETAIL = format('By %s at %s.', prior.begun_by, prior.begun_at),
                  HINT = format('SELECT ml.revert_change(%L); takes it back; SELECT ml.forget_change(%L); where it was undone by other means.', name, name);
    END IF;
    -- golang-migrate sends a file as one query, so its text is at hand. One that was sent statement by statement leaves the checksum unknown.
    sum := decode(checksum, 'hex');
    IF sum IS NULL AND text_ !~* E'^(\\s|--[^\n]*\n)*select\\s+ml\\.begin_change\\s*\\([^;]*;?\\s*$' THEN
        sum := sha256(convert_to(text_, 'UTF8'));
    END IF;
    INSERT INTO ml_private.change (name, number, checksum, xact, begun_at, begun_by)
    VALUES (begin_change.name, (SELECT coalesce(max(c.number), 0) + 1 FROM ml_private.change c), sum, pg_current_xact_id(), transaction_timestamp(),
            quote_ident(who)::regrole);
    INSERT INTO ml_private.change_sequence (change, relation, attribute, last_value, is_called)
    SELECT name, n.relation, n.attribute, n.last_value, n.is_called FROM ml_private.numbers() n;
END $$;
COMMENT ON FUNCTION ml.begin_change(text, text) IS $$Gives what this transaction does to models from here on a name, by which ml.revert_change() takes it back. checksum is the SHA-256 of the file that the statements come from; without it, it is taken from the query where the whole file is one.
Example: BEGIN; SELECT ml.begin_change('000002_churn_v2'); SELECT ml.promote('churn', 2); COMMIT;$$;
