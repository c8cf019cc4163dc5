package app

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/trickle-verify/trickle/diff"
	"github.com/trickle-verify/trickle/policy"
	"github.com/trickle-verify/trickle/postgres"
	"github.com/trickle-verify/trickle/scanner"
)

// choice is what the tables are chosen by.
type choice struct {
	source, replica *pgxpool.Pool
	policy          *policy.Policy // may be nil
	wanted          []string
}

// chosen are the tables to compare.
type chosen struct {
	tables                  []diff.Table
	failed                  []failure // asked for, and can't be compared
	onlySource, onlyReplica []string
	have, there             []postgres.Name // all that the two databases hold
}

// failure is what was asked for, in the words that it was asked in, and why it can't be compared.
type failure struct {
	asked string
	err   error
}

func (c *chosen) fail(asked string, err error) { c.failed = append(c.failed, failure{asked, err}) }

// choose pairs the tables of both sides.
func choose(ctx context.Context, c choice) (chosen, error) {
	var out chosen
	var err error
	if out.have, err = postgres.NewSource(c.source).Tables(ctx); err != nil {
		return out, listing("source", err)
	}
	if out.there, err = postgres.NewSource(c.replica).Tables(ctx); err != nil {
		return out, listing("replica", err)
	}
	wanted := make([]*want, len(c.wanted))
	for i, w := range c.wanted {
		if wanted[i], err = newWant(w); err != nil {
			return out, err
		}
	}
	mapped := make(map[postgres.Name]bool)
	for _, name := range out.have {
		asked, exact := met(wanted, name)
		t := diff.Table{Source: name, Replica: name}
		if c.policy != nil {
			m, ok := c.policy.For(name.Schema, name.Table)
			if !ok {
				if exact {
					out.fail(name.String(), errors.New("it is in no entry of the policy: add one, or leave --policy out"))
				}
				continue
			}
			t.Replica, t.Rules = postgres.Name{Schema: m.Replica.Schema, Table: m.Replica.Name}, scanner.Rules(m.Table)
			exact = exact || m.Table.Table == (policy.Name{Schema: name.Schema, Name: name.Table}).String()
		}
		mapped[t.Replica] = true
		switch {
		case !asked:
		case slices.Contains(out.there, t.Replica):
			out.tables = append(out.tables, t)
		case exact:
			reason, err := instead(ctx, c.replica, t.Replica)
			if err != nil {
				return out, fmt.Errorf("replica: %w", err)
			}
			if reason == "" {
				reason = "create it there, or say under replica: in a policy what it is called"
			}
			out.fail(name.String(), fmt.Errorf("the replica has no table %s: %s", t.Replica, reason))
		default:
			out.onlySource = append(out.onlySource, name.String())
		}
	}
	for _, w := range wanted {
		if w.met {
			continue
		}
		reason, err := c.unmet(ctx, &out, w)
		if err != nil {
			return out, err
		}
		out.fail(w.text, errors.New(reason))
	}
	if len(wanted) > 0 {
		return out, nil
	}
	if c.policy != nil {
		err := c.idle(&out)
		return out, err
	}
	for _, name := range out.there {
		if !mapped[name] {
			out.onlyReplica = append(out.onlyReplica, name.String())
		}
	}
	return out, nil
}

// listing says which side's tables can't be listed, and the next step where there is one.
func listing(role string, err error) error {
	if postgres.State(err) == "57014" {
		return fmt.Errorf("%s: %w: raise statement_timeout for this user (ALTER ROLE … SET statement_timeout = 0) or in the DSN", role, err)
	}
	return fmt.Errorf("%s: %w", role, err)
}

// met tells whether a table was asked for, and whether by its name.
func met(wanted []*want, name postgres.Name) (asked, exact bool) {
	asked = len(wanted) == 0
	for _, w := range wanted {
		if w.pattern.Match(name.Schema, name.Table) {
			w.met, asked = true, true
			exact = exact || w.exact
		}
	}
	return asked, exact
}

// idle finds the entries of the policy that no table matches: each asks for something.
func (c choice) idle(out *chosen) error {
	for _, t := range c.policy.Tables {
		pattern, err := policy.ParsePattern(t.Table)
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(out.have, func(n postgres.Name) bool { return pattern.Match(n.Schema, n.Table) }) {
			out.fail(t.Table, errors.New("no table of the source matches this entry of the policy: check the name, or the schema"))
		}
	}
	return nil
}

// unmet is why no table of the source matches, and the next step.
func (c choice) unmet(ctx context.Context, out *chosen, w *want) (string, error) {
	if !w.exact {
		return "no table of the source matches: give schema.name as the catalogue has it, with a * for any run of characters", nil
	}
	reason, err := instead(ctx, c.source, w.name)
	if err != nil {
		return "", fmt.Errorf("source: %w", err)
	}
	near := slices.IndexFunc(out.have, func(n postgres.Name) bool { return strings.EqualFold(n.String(), w.name.String()) })
	if near < 0 {
		near = slices.IndexFunc(out.have, func(n postgres.Name) bool { return strings.EqualFold(unquoted(n), unquoted(w.name)) })
	}
	switch {
	case reason != "":
	case slices.Contains(out.there, w.name):
		reason = "only the replica has it; create it there, or leave it out"
	case near >= 0:
		reason = fmt.Sprintf("did you mean '%s'? Upper and lower case count", out.have[near])
	default:
		reason = "give schema.name as the catalogue has it, upper and lower case"
	}
	return fmt.Sprintf("the source has no table %s: %s", w.name, reason), nil
}

func unquoted(n postgres.Name) string { return n.Schema + "." + n.Table }

// instead says what a database has under this name that is no table to compare, with the next step; empty: nothing.
func instead(ctx context.Context, pool *pgxpool.Pool, name postgres.Name) (string, error) {
	var kind, root string
	err := pool.QueryRow(ctx, `SELECT CASE WHEN relispartition THEN 'partition' ELSE relkind::text END, coalesce(pg_partition_root(oid)::regclass::text, '')
		FROM pg_class WHERE oid = to_regclass($1)`, name.SQL()).Scan(&kind, &root)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return "", nil
	case err != nil:
		return "", fmt.Errorf("looking for %s: %w", name, err)
	}
	switch kind {
	case "v", "m":
		return "it is a view; name the tables that it reads", nil
	case "f":
		return "it is a foreign table, whose rows another server holds; compare them there", nil
	case "partition":
		return "it is a partition; name the whole table, " + root, nil
	case "r", "p":
		return "it is Postgres's or trickle's own and is not compared", nil
	default:
		return "what has this name is no table", nil
	}
}

// want is one --table.
type want struct {
	text    string
	pattern policy.Pattern
	name    postgres.Name // where it is one name
	exact   bool
	met     bool
}

func newWant(text string) (*want, error) {
	w := &want{text: text}
	var err error
	if w.pattern, err = policy.ParsePattern(text); err != nil {
		// A name without a schema is one of public.
		var again error
		if w.pattern, again = policy.ParsePattern("public." + text); again != nil {
			return nil, fmt.Errorf("--table %w", err)
		}
	}
	var name policy.Name
	name, w.exact = w.pattern.Exact()
	w.name = postgres.Name{Schema: name.Schema, Table: name.Name}
	return w, nil
}
