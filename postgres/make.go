package postgres

import (
	"context"
	"fmt"
	"hash/fnv"
	"slices"
	"strconv"
	"unicode/utf8"

	"github.com/jackc/pgx/v5/pgconn"
)

// Place is what a replica calls a table of the source's.
type Place struct {
	Name   Name
	Rename map[string]string // column: what the replica calls it
}

// OtherTypeError says that a type, or an extension, is there already and is another than the source's.
type OtherTypeError struct {
	Name           string
	Source, Here   string
	TypeOrExtended string // "type", "extension", …
}

func (e *OtherTypeError) Error() string {
	return fmt.Sprintf("%s %s is %s at the source and %s here: make it what it is at the source, or make the tables that use it yourself", e.TypeOrExtended, e.Name, e.Source, e.Here)
}

// Make makes the table, in the connection's transaction: schemas, extensions and types where they are missing, and the columns, by the replica's names. It has no
// key yet, nor anything else.
//
// Much of it is text that the source wrote. Each statement goes by itself through the extended protocol, which takes no second one in its wake, and under a search_path on
// which nothing is but what is Postgres's own.
func (d *Definition) Make(ctx context.Context, c *pgconn.PgConn, at Place) error {
	return underPath(ctx, c, func() error {
		schemas := append(d.Schemas(), at.Name.Schema)
		slices.Sort(schemas)
		for _, schema := range slices.Compact(schemas) {
			if err := makeSchema(ctx, c, schema); err != nil {
				return err
			}
		}
		for _, e := range d.Extensions {
			if err := e.make(ctx, c); err != nil {
				return err
			}
		}
		for _, t := range d.Types {
			if err := t.make(ctx, c); err != nil {
				return err
			}
		}
		if err := run(ctx, c, d.TableSQL(at.Name)); err != nil {
			return fmt.Errorf("making table %s: %w", at.Name, err)
		}
		return at.wear(ctx, c, itsOwn)
	})
}

// run runs one statement that returns nothing.
func run(ctx context.Context, c *pgconn.PgConn, sql string) error {
	return each(ctx, c, sql, nil, func([][]byte) error { return nil })
}

func makeSchema(ctx context.Context, c *pgconn.PgConn, schema string) error {
	there := false
	err := each(ctx, c, "SELECT EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = $1)", []Arg{text(schema)}, func(row [][]byte) error {
		there = isTrue(row[0])
		return nil
	})
	if err == nil && !there {
		err = run(ctx, c, "CREATE SCHEMA "+Quote(schema)) // IF NOT EXISTS would ask for the right where there is nothing to do
	}
	if err != nil {
		return fmt.Errorf("making schema %s: %w", Quote(schema), err)
	}
	return nil
}

func (e Extension) make(ctx context.Context, c *pgconn.PgConn) error {
	here := ""
	err := each(ctx, c, "SELECT n.nspname FROM pg_catalog.pg_extension e JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = $1", []Arg{text(e.Name)}, func(row [][]byte) error {
		here = string(row[0])
		return nil
	})
	switch {
	case err != nil:
	case here == "":
		err = run(ctx, c, e.SQL())
	case here != e.Schema:
		return &OtherTypeError{Name: Quote(e.Name), Source: "in schema " + Quote(e.Schema), Here: "in schema " + Quote(here), TypeOrExtended: "extension"}
	}
	if err != nil {
		return fmt.Errorf("making extension %s: %w", Quote(e.Name), err)
	}
	return nil
}

func (t Type) make(ctx context.Context, c *pgconn.PgConn) error {
	from, name := "pg_catalog.pg_type WHERE typnamespace = n.oid AND typname = $2", ParseName(t.Name)
	if t.Kind == CollationType {
		from = "pg_catalog.pg_collation WHERE collnamespace = n.oid AND collname = $2"
	}
	oid := ""
	err := each(ctx, c, "SELECT x.oid FROM pg_catalog.pg_namespace n, LATERAL (SELECT oid FROM "+from+") x WHERE n.nspname = $1", []Arg{text(name.Schema), text(name.Table)}, func(row [][]byte) error {
		oid = string(row[0])
		return nil
	})
	if err == nil && oid == "" {
		err = run(ctx, c, t.SQL())
	} else if err == nil {
		var own Type
		if own, err = typeAs(ctx, c, t.Kind, oid); err == nil && (own.Kind != t.Kind || own.Body != t.Body) {
			return &OtherTypeError{Name: t.Name, Source: t.Kind + " (" + t.Body + ")", Here: own.Kind + " (" + own.Body + ")", TypeOrExtended: "type"}
		}
	}
	if err != nil {
		return fmt.Errorf("making type %s: %w", t.Name, err)
	}
	return nil
}

// typeAs reads a type that is there as a definition would have it; one that a definition would not make has no kind and says what it is.
func typeAs(ctx context.Context, c *pgconn.PgConn, kind, oid string) (Type, error) {
	r := &defining{c: c, layout: &Layout{Table: &Table{}}, made: make(map[string]string)}
	read := r.typ
	if kind == CollationType {
		read = r.collation
	}
	why, err := read(ctx, oid)
	switch {
	case err != nil:
		return Type{}, err
	case why != "":
		return Type{Body: why}, nil
	case len(r.out.Types) == 0:
		return Type{Body: "of an extension"}, nil
	}
	return r.out.Types[len(r.out.Types)-1], nil
}

// whose names a table's columns bear.
type whose int

const (
	itsOwn whose = iota
	theSources
)

// wear renames columns, where that has anything to do: definitions go by the source's names, and the server is the one that can tell which word in an expression is one.
func (p Place) wear(ctx context.Context, c *pgconn.PgConn, names whose) error {
	var from, to []string
	for source, own := range p.Rename {
		if names == theSources {
			source, own = own, source
		}
		if source != own {
			from, to = append(from, source), append(to, own)
		}
	}
	there := make(map[string]bool)
	if len(from) > 0 {
		err := each(ctx, c, "SELECT attname FROM pg_catalog.pg_attribute WHERE attrelid = pg_catalog.to_regclass($1) AND attnum > 0 AND NOT attisdropped", []Arg{text(p.Name.SQL())}, func(row [][]byte) error {
			there[string(row[0])] = true
			return nil
		})
		if err != nil {
			return err
		}
	}
	rename := func(from, to string) error {
		if err := run(ctx, c, "ALTER TABLE "+p.Name.SQL()+" RENAME COLUMN "+Quote(from)+" TO "+Quote(to)); err != nil {
			return fmt.Errorf("renaming column %s of %s: %w", Quote(from), p.Name, err)
		}
		return nil
	}
	between := func(i int) string { return "trickle between names " + strconv.Itoa(i) } // two that swap their names
	for i := range from {
		if !there[from[i]] {
			continue // an excluded one
		}
		if err := rename(from[i], between(i)); err != nil {
			return err
		}
	}
	for i := range from {
		if !there[from[i]] {
			continue
		}
		if err := rename(between(i), to[i]); err != nil {
			return err
		}
	}
	return nil
}

// Made tells what became of an index or constraint.
type Made struct {
	Name string // that it bears: another than the source's where that was taken by another table
	SQL  string // the statement that makes it
	// There: it was there already.
	There bool
}

// Make makes an index or a constraint of a table, in the connection's transaction, unless the table has it. Where the table's columns are called otherwise, or those of the
// table that it refers to, it locks that until the transaction ends. Made holds the statement also where it failed.
func (p DefinedPart) Make(ctx context.Context, c *pgconn.PgConn, at, refers Place) (m Made, err error) {
	err = underPath(ctx, c, func() error {
		m, err = p.named(ctx, c, at.Name)
		if err != nil || m.There {
			return err
		}
		m.SQL = p.SQL(m.Name, at.Name, refers.Name)
		apart := p.Kind == ForeignKey && refers.Name != at.Name
		if err := at.wear(ctx, c, theSources); err != nil {
			return err
		}
		if apart {
			if err := refers.wear(ctx, c, theSources); err != nil {
				return err
			}
		}
		if err := run(ctx, c, m.SQL); err != nil {
			return err
		}
		if apart {
			if err := refers.wear(ctx, c, itsOwn); err != nil {
				return err
			}
		}
		return at.wear(ctx, c, itsOwn)
	})
	if err != nil {
		err = fmt.Errorf("making %s %s of %s: %w", p.Kind, Quote(p.Name), at.Name, err)
	}
	return m, err
}

// named finds what to call it: by its own name, or, where another table of the schema has an index of that name, by one that is made of it and of the table's.
func (p DefinedPart) named(ctx context.Context, c *pgconn.PgConn, table Name) (Made, error) {
	other := fnv.New32a()
	other.Write([]byte(table.Table))
	suffix := "_" + strconv.FormatUint(uint64(other.Sum32()), 36)
	for _, name := range []string{p.Name, short(p.Name, 63-len(suffix)) + suffix} {
		there, taken := false, false
		err := each(ctx, c, `SELECT EXISTS (SELECT FROM pg_catalog.pg_constraint WHERE conrelid = $2::pg_catalog.regclass AND conname = $1)
				OR EXISTS (SELECT FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid WHERE i.indrelid = $2::pg_catalog.regclass AND x.relname = $1),
			EXISTS (SELECT FROM pg_catalog.pg_class x JOIN pg_catalog.pg_class t ON t.relnamespace = x.relnamespace WHERE t.oid = $2::pg_catalog.regclass AND x.relname = $1)`,
			[]Arg{text(name), text(table.SQL())}, func(row [][]byte) error {
				there, taken = isTrue(row[0]), isTrue(row[1])
				return nil
			})
		if err != nil || there || !taken {
			return Made{Name: name, There: there}, err
		}
	}
	return Made{}, nil
}

// short cuts a name to so many bytes, between characters.
func short(s string, most int) string {
	for len(s) > most {
		_, n := utf8.DecodeLastRuneInString(s)
		s = s[:len(s)-n]
	}
	return s
}
