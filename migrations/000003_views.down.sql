DROP VIEW ml.grants, ml.alias_history, ml.aliases, ml.versions, ml.models;
DROP FUNCTION ml_private.may_use(bigint, name);
