package e2e

import (
	"fmt"
	"testing"

	"github.com/trickle-verify/trickle/internal/testbed/workload"
)

// drift is the rows that were made wrong in a replica.
type drift []workload.Injected

// auditing notes every row that trickle writes into these tables, by their keys' columns, and every journal entry, each with its transaction.
func auditing(tables map[string][]string) []string {
	statements := []string{`
CREATE SCHEMA audit;
CREATE TABLE audit.writes (xid xid8 NOT NULL DEFAULT pg_current_xact_id(), table_name text NOT NULL, op text NOT NULL, key jsonb NOT NULL, before jsonb, after jsonb);
CREATE TABLE audit.entries (xid xid8 NOT NULL DEFAULT pg_current_xact_id(), id bigint NOT NULL, table_name text NOT NULL, key jsonb NOT NULL, kind text NOT NULL, before jsonb, after jsonb);
CREATE FUNCTION audit.write() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE row jsonb := CASE TG_OP WHEN 'DELETE' THEN to_jsonb(OLD) ELSE to_jsonb(NEW) END;
BEGIN
	INSERT INTO audit.writes (table_name, op, key, before, after) SELECT TG_TABLE_SCHEMA || '.' || TG_TABLE_NAME, TG_OP,
		(SELECT jsonb_object_agg(k, row->k) FROM unnest(TG_ARGV) k),
		CASE WHEN TG_OP <> 'INSERT' THEN to_jsonb(OLD) END, CASE WHEN TG_OP <> 'DELETE' THEN to_jsonb(NEW) END;
	RETURN NULL;
END $$;
CREATE FUNCTION audit.entry() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO audit.entries (id, table_name, key, kind, before, after) VALUES (NEW.id, NEW.table_name, NEW.key, NEW.kind, NEW.before, NEW.after);
	RETURN NULL;
END $$;
CREATE TRIGGER audit AFTER INSERT ON trickle.corrections FOR EACH ROW EXECUTE FUNCTION audit.entry();`}
	for table, key := range tables {
		arguments := ""
		for _, column := range key {
			arguments += ", '" + column + "'"
		}
		statements = append(statements, fmt.Sprintf(`CREATE TRIGGER audit AFTER INSERT OR UPDATE OR DELETE ON %s FOR EACH ROW
			WHEN (current_setting('application_name') = 'trickle replica') EXECUTE FUNCTION audit.write(%s)`, table, arguments[2:]))
	}
	return statements
}

// argument is the rows that were made wrong, as a query's argument.
func (d drift) argument() []string {
	out := make([]string, len(d))
	for i, in := range d {
		out[i] = fmt.Sprintf(`{"table": %q, "key": %s, "kind": %q}`, in.Table, in.Key, in.Kind)
	}
	return out
}

// uncorrected is those that the journal has no entry of.
func (d drift) uncorrected(t *testing.T, dst database) []string {
	t.Helper()
	return values[string](t, dst, `SELECT i::text FROM unnest($1::text[]::jsonb[]) i
		WHERE NOT EXISTS (SELECT FROM trickle.corrections c WHERE c.table_name = i->>'table' AND c.key = i->'key' AND c.kind = i->>'kind')`, d.argument())
}

// audit compares the journal with what was really written.
func (d drift) audit(t *testing.T, dst database) {
	t.Helper()
	for what, query := range map[string]string{
		"written without a journal entry of the same transaction": `SELECT w::text FROM audit.writes w WHERE NOT EXISTS (SELECT FROM audit.entries e WHERE (e.xid, e.table_name, e.key) = (w.xid, w.table_name, w.key))
			AND NOT EXISTS (SELECT FROM trickle.copies c WHERE c.table_name = w.table_name AND c.version = w.xid::text::bigint & 4294967295)`,
		"journalled without a write of the same transaction": `SELECT e::text FROM audit.entries e WHERE NOT EXISTS (SELECT FROM audit.writes w WHERE (e.xid, e.table_name, e.key) = (w.xid, w.table_name, w.key))`,
		"journalled twice for one write":                     `SELECT xid || ' ' || table_name || ' ' || key FROM audit.entries GROUP BY xid, table_name, key HAVING count(*) > 1`,
		"written otherwise than journalled": `SELECT w::text FROM audit.writes w JOIN audit.entries e USING (xid, table_name, key)
			WHERE (e.kind, w.op) NOT IN (VALUES ('missing', 'INSERT'), ('extra', 'DELETE'), ('mismatched', 'UPDATE'), ('mismatched', 'DELETE'), ('mismatched', 'INSERT'))
				OR (e.before IS NULL) <> (e.kind = 'missing') OR (e.after IS NULL) <> (e.kind = 'extra')`,
		"in the journal, but not audited":   `SELECT id::text FROM trickle.corrections c WHERE NOT EXISTS (SELECT FROM audit.entries e WHERE e.id = c.id)`,
		"audited, but not in the journal":   `SELECT id::text FROM audit.entries e WHERE NOT EXISTS (SELECT FROM trickle.corrections c WHERE e.id = c.id)`,
		"copied and not closed":             `SELECT id::text FROM trickle.copies WHERE closed_at IS NULL`,
		"closed without an outcome, or not": `SELECT id::text FROM trickle.corrections WHERE closed_at IS NULL OR outcome IS NULL`,
	} {
		if got := values[string](t, dst, query); len(got) > 0 {
			t.Errorf("%d %s: %v", len(got), what, got[:min(3, len(got))])
		}
	}
	if n := value[int](t, dst, `SELECT count(*) FROM audit.writes`); n < len(d) {
		t.Errorf("only %d writes were audited", n)
	}
}

// unexplained is the corrections of rows that nobody had made wrong.
func (d drift) unexplained(t *testing.T, dst database) []string {
	t.Helper()
	return values[string](t, dst, `SELECT to_jsonb(c)::text FROM trickle.corrections c
		WHERE NOT EXISTS (SELECT FROM unnest($1::text[]::jsonb[]) i WHERE c.table_name = i->>'table' AND c.key = i->'key') ORDER BY id`, d.argument())
}
