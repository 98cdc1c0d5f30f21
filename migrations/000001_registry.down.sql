DROP TABLE ml_private.route, ml_private.model_grant, ml_private.alias, ml_private.alias_history, ml_private.version, ml_private.model,
    ml_private.artifact_chunk, ml_private.artifact, ml_private.gateway;
DROP SCHEMA ml;
