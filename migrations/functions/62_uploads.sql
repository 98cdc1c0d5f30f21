-- What an upload asks about what is stored, and rights.

-- What is stored of an artifact: nothing but its uploader's own business.
CREATE OR REPLACE FUNCTION ml.stored_chunks(sha256 text) RETURNS TABLE (number integer, chunk_sha256 text)
LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    who    name := ml_private.changer();
    target ml_private.artifact;
BEGIN
    SELECT * INTO target FROM ml_private.artifact a WHERE a.sha256 = decode(stored_chunks.sha256, 'hex');
    IF target.sha256 IS NULL
       OR NOT (EXISTS (SELECT FROM pg_roles r WHERE r.oid = target.created_by AND pg_has_role(who, r.oid, 'USAGE')) OR ml_private.is_admin(who)) THEN
        RAISE EXCEPTION 'no upload of artifact % was begun by "%"', sha256, who USING ERRCODE = '42501', HINT = 'Call ml.begin_upload() first.';
    END IF;
    RETURN QUERY SELECT c.number, encode(pg_catalog.sha256(c.data), 'hex') FROM ml_private.artifact_chunk c WHERE c.sha256 = target.sha256;
END $$;
COMMENT ON FUNCTION ml.stored_chunks(text) IS $$The chunks of an artifact that are stored, each with its own SHA-256: what an upload compares at its end.
Example: SELECT count(*) FROM ml.stored_chunks('0f…64 digits');$$;

CREATE OR REPLACE FUNCTION ml.discard_chunk(sha256 text, number integer) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    who name := ml_private.changer();
BEGIN
    DELETE FROM ml_private.artifact_chunk c USING ml_private.artifact a
    WHERE a.sha256 = decode(discard_chunk.sha256, 'hex') AND c.sha256 = a.sha256 AND c.number = discard_chunk.number
      AND (EXISTS (SELECT FROM pg_roles r WHERE r.oid = a.created_by AND pg_has_role(who, r.oid, 'USAGE')) OR ml_private.is_admin(who))
      AND NOT ml_private.artifact_used(a.sha256)
      AND NOT EXISTS (SELECT FROM ml_private.change_artifact k WHERE k.sha256 = a.sha256);
    RETURN FOUND;
END $$;
COMMENT ON FUNCTION ml.discard_chunk(text, integer) IS $$Deletes a chunk of an uploaded artifact that no version uses, so that it can be sent again; false where there is none.
Example: SELECT ml.discard_chunk('0f…64 digits', 7);$$;

CREATE OR REPLACE FUNCTION ml.missing_chunks(sha256 text) RETURNS integer
LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN (SELECT (greatest(a.size, 1) + 1048575) / 1048576 - (SELECT count(*) FROM ml_private.artifact_chunk c WHERE c.sha256 = a.sha256)
            FROM ml_private.artifact a WHERE a.sha256 = decode(missing_chunks.sha256, 'hex'));
END $$;
COMMENT ON FUNCTION ml.missing_chunks(text) IS $$How many chunks of an artifact are still to be uploaded: 0 when it is stored whole, NULL when its upload was never begun.
Example: SELECT ml.missing_chunks('0f…64 digits');$$;
