package postgres

// Definition is the SQL that makes a table like one of the source's in another database, in the order in which it is run. Each statement stands alone and names
// what it makes with its schema.
type Definition struct {
	Extensions []string `json:"extensions,omitempty"` // names
	// Types makes the enums, domains and composite types that the columns have, and what those are made of.
	Types []Statement     `json:"types,omitempty"`
	Table []DefinedColumn `json:"columns"`
	Key   string          `json:"key"` // the key as a table constraint: PRIMARY KEY ("id")
	// Indexes hold for any rows. Constraints hold only once CDC has caught up, since ranges are read at different moments: unique indexes, exclusions, foreign keys.
	Indexes     []Statement `json:"indexes,omitempty"`
	Constraints []Statement `json:"constraints,omitempty"`
}

// DefinedColumn is a column of the table to be made.
type DefinedColumn struct {
	Name string `json:"name"`
	SQL  string `json:"sql"` // type, collation, NOT NULL, GENERATED
}

// Statement makes one thing. %s in SQL is the table, which the replica may call otherwise.
type Statement struct {
	Name string `json:"name"`
	SQL  string `json:"sql"`
}
