package postgres

import "slices"

// Definition is what makes a table like one of the source's in another database: by the source's names, in the order in which it is made.
//
// Excluded columns are not in it, nor what needs one; nor what a replica has no use for, since every value comes from the source: defaults, identities,
// sequences, triggers, owners, grants, statistics, storage. A partitioned table is defined as an ordinary one. What the source has and this lacks is in LeftOut.
type Definition struct {
	Extensions []Extension     `json:"extensions,omitempty"` // that types, operators and functions below come from
	Types      []Type          `json:"types,omitempty"`      // and collations
	Columns    []DefinedColumn `json:"columns"`
	Key        DefinedPart     `json:"key"`
	// Ready holds for any rows of the source, whenever each was read: CHECKs, indexes that are not unique.
	Ready []DefinedPart `json:"ready,omitempty"`
	// Later holds only among rows of one moment: unique indexes, exclusions, foreign keys.
	Later []DefinedPart `json:"later,omitempty"`
	// LeftOut is what was left out though a replica could have a use for it, each with the reason.
	LeftOut []string `json:"left_out,omitempty"`
	// Unmakeable are the reasons for which the table can't be made from this; it can still be filled where it exists.
	Unmakeable []string `json:"unmakeable,omitempty"`
}

// Extension is one that has to be there, in that schema.
type Extension struct {
	Name   string `json:"name"`
	Schema string `json:"schema"`
}

// SQL makes it where it is missing.
func (e Extension) SQL() string {
	return "CREATE EXTENSION IF NOT EXISTS " + Quote(e.Name) + " SCHEMA " + Quote(e.Schema)
}

// Kinds of types.
const (
	EnumType      = "enum"
	DomainType    = "domain"
	CompositeType = "composite"
	RangeType     = "range"
	CollationType = "collation"
)

// Type is one that columns are made of.
type Type struct {
	Name string `json:"name"` // in the form that travels
	Kind string `json:"kind"`
	Body string `json:"body"` // what stands behind the name; of two types with one name and kind it tells whether they are alike
}

// SQL makes it.
func (t Type) SQL() string {
	name := ParseName(t.Name).SQL()
	switch t.Kind {
	case DomainType:
		return "CREATE DOMAIN " + name + " AS " + t.Body
	case CollationType:
		return "CREATE COLLATION " + name + " (" + t.Body + ")"
	case EnumType:
		return "CREATE TYPE " + name + " AS ENUM (" + t.Body + ")"
	case RangeType:
		return "CREATE TYPE " + name + " AS RANGE (" + t.Body + ")"
	default:
		return "CREATE TYPE " + name + " AS (" + t.Body + ")"
	}
}

// DefinedColumn is a column of the table to be made.
type DefinedColumn struct {
	Name string `json:"name"`
	SQL  string `json:"sql"` // type, collation, NOT NULL, GENERATED
}

// Kinds of parts.
const (
	Index       = "index"
	UniqueIndex = "unique index"
	Constraint  = "constraint"
	ForeignKey  = "foreign key"
)

// DefinedPart is an index or a constraint. Its text goes by the source's names of columns.
type DefinedPart struct {
	Name string `json:"name"`
	Kind string `json:"kind"`
	// Body is what stands behind USING in an index, behind the name in a constraint, before REFERENCES in a foreign key.
	Body string `json:"body"`
	// Refers is the table that a foreign key refers to, as the source calls it, To the columns there; Tail is what stands behind the table.
	Refers string   `json:"refers,omitempty"`
	To     []string `json:"to,omitempty"`
	Tail   string   `json:"tail,omitempty"`
}

// SQL makes it on a table, which refers to another where it is a foreign key. Without a name the server chooses one.
func (p DefinedPart) SQL(name string, table, refers Name) string {
	if name != "" {
		name = Quote(name) + " "
	}
	switch p.Kind {
	case Index:
		return "CREATE INDEX " + name + "ON " + table.SQL() + " USING " + p.Body
	case UniqueIndex:
		return "CREATE UNIQUE INDEX " + name + "ON " + table.SQL() + " USING " + p.Body
	}
	add := "ALTER TABLE " + table.SQL() + " ADD "
	if name != "" {
		add += "CONSTRAINT " + name
	}
	if p.Kind == ForeignKey {
		return add + p.Body + " REFERENCES " + refers.SQL() + p.Tail
	}
	return add + p.Body
}

// TableSQL makes the table with its columns, by the source's names, and nothing else.
func (d *Definition) TableSQL(name Name) string {
	sql := "CREATE TABLE " + name.SQL() + " ("
	for i, c := range d.Columns {
		if i > 0 {
			sql += ", "
		}
		sql += Quote(c.Name) + " " + c.SQL
	}
	return sql + ")"
}

// Schemas are those that its extensions and types are in.
func (d *Definition) Schemas() []string {
	var out []string
	for _, e := range d.Extensions {
		out = append(out, e.Schema)
	}
	for _, t := range d.Types {
		out = append(out, ParseName(t.Name).Schema)
	}
	slices.Sort(out)
	return slices.Compact(out)
}
