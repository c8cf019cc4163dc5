package postgres

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
)

// extension puts one into the definition, behind those that it needs itself.
func (r *defining) extension(ctx context.Context, name string) error {
	if _, seen := r.made["extension "+name]; seen {
		return nil
	}
	r.made["extension "+name] = ""
	schema := ""
	var before []string
	err := each(ctx, r.c, `SELECT n.nspname, f.extname FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
			LEFT JOIN pg_depend d ON d.classid = 'pg_extension'::regclass AND d.objid = e.oid AND d.refclassid = 'pg_extension'::regclass LEFT JOIN pg_extension f ON f.oid = d.refobjid
		WHERE e.extname = $1 ORDER BY 2`, []Arg{text(name)}, func(row [][]byte) error {
		schema = string(row[0])
		if row[1] != nil {
			before = append(before, string(row[1]))
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, other := range before {
		if err := r.extension(ctx, other); err != nil {
			return err
		}
	}
	if schema != "pg_catalog" { // as that of plpgsql, which every database has
		r.out.Extensions = append(r.out.Extensions, Extension{Name: name, Schema: schema})
	}
	return nil
}

// part is what a type is made of.
type typePart struct {
	Type      string `json:"type"` // oid
	Collation string `json:"collation"`
}

// typ puts a type into the definition, behind those that it is made of. why is not empty where that can't be.
func (r *defining) typ(ctx context.Context, oid string) (why string, err error) {
	if why, seen := r.made[oid]; seen {
		return why, nil
	}
	r.made[oid] = "" // a type that comes back to itself, through an array of it, is made once
	defer func() { r.made[oid] = why }()
	var kind, extension, schema, name, body, missing string
	var parts []typePart
	err = each(ctx, r.c, `SELECT CASE WHEN t.oid < 16384 THEN 'own' WHEN a.oid IS NOT NULL THEN 'array' WHEN t.typtype = 'm' THEN 'multirange' WHEN t.typtype = 'e' THEN 'enum' WHEN t.typtype = 'd' THEN 'domain'
				WHEN t.typtype = 'r' THEN 'range' WHEN t.typtype = 'c' AND r.relkind = 'c' THEN 'composite' WHEN t.typtype = 'c' THEN 'row' ELSE 'base' END,
			coalesce(e.extname, ''), n.nspname, t.typname,
			coalesce(CASE t.typtype WHEN 'e' THEN (SELECT pg_catalog.string_agg(pg_catalog.quote_literal(l.enumlabel), ', ' ORDER BY l.enumsortorder) FROM pg_enum l WHERE l.enumtypid = t.oid)
				WHEN 'd' THEN pg_catalog.format_type(t.typbasetype, t.typtypmod) || `+collateSQL("t.typcollation", "b.typcollation")+` || CASE WHEN t.typnotnull THEN ' NOT NULL' ELSE '' END
				WHEN 'c' THEN (SELECT pg_catalog.string_agg(pg_catalog.quote_ident(m.attname) || ' ' || pg_catalog.format_type(m.atttypid, m.atttypmod) || `+collateSQL("m.attcollation", "b.typcollation")+`, ', ' ORDER BY m.attnum)
					FROM pg_attribute m JOIN pg_type b ON b.oid = m.atttypid WHERE m.attrelid = t.typrelid AND NOT m.attisdropped)
				WHEN 'r' THEN (SELECT 'subtype = ' || pg_catalog.format_type(g.rngsubtype, NULL) || ', subtype_opclass = ' || pg_catalog.quote_ident(s.nspname) || '.' || pg_catalog.quote_ident(o.opcname)
						|| coalesce(', collation = ' || (SELECT pg_catalog.quote_ident(cn.nspname) || '.' || pg_catalog.quote_ident(l.collname) FROM pg_collation l JOIN pg_namespace cn ON cn.oid = l.collnamespace WHERE l.oid = g.rngcollation), '')
						|| CASE WHEN g.rngsubdiff <> 0 THEN ', subtype_diff = ' || g.rngsubdiff::regproc::text ELSE '' END || ', multirange_type_name = ' || g.rngmultitypid::regtype::text
					FROM pg_range g JOIN pg_opclass o ON o.oid = g.rngsubopc JOIN pg_namespace s ON s.oid = o.opcnamespace WHERE g.rngtypid = t.oid) END, ''),
			coalesce((SELECT pg_catalog.string_agg(pg_catalog.format('function %s', f::regprocedure), ', ') FROM pg_range g, LATERAL (VALUES (g.rngsubdiff), (g.rngcanonical)) v(f)
				WHERE g.rngtypid = t.oid AND (f >= 16384 OR f = g.rngcanonical AND f <> 0)), ''),
			(SELECT pg_catalog.json_agg(pg_catalog.json_build_object('type', v.typ::text, 'collation', v.coll::text)) FROM (
				SELECT a.oid, 0::oid UNION ALL SELECT t.typbasetype, t.typcollation WHERE t.typtype = 'd' UNION ALL SELECT g.rngsubtype, g.rngcollation FROM pg_range g WHERE g.rngtypid = t.oid
				UNION ALL SELECT g.rngtypid, 0 FROM pg_range g WHERE g.rngmultitypid = t.oid
				UNION ALL SELECT m.atttypid, m.attcollation FROM pg_attribute m WHERE t.typtype = 'c' AND r.relkind = 'c' AND m.attrelid = t.typrelid AND NOT m.attisdropped) v(typ, coll) WHERE v.typ <> 0)
		FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace LEFT JOIN pg_type a ON a.oid = t.typelem AND a.typarray = t.oid LEFT JOIN pg_type b ON b.oid = t.typbasetype
			LEFT JOIN pg_class r ON r.oid = t.typrelid LEFT JOIN pg_depend x ON x.classid = 'pg_type'::regclass AND x.objid = t.oid AND x.deptype = 'e' AND x.refclassid = 'pg_extension'::regclass
			LEFT JOIN pg_extension e ON e.oid = x.refobjid
		WHERE t.oid = $1::oid`, []Arg{text(oid)}, func(row [][]byte) error {
		kind, extension, schema, name, body, missing = string(row[0]), string(row[1]), string(row[2]), string(row[3]), string(row[4]), string(row[5])
		if row[6] == nil {
			return nil
		}
		return json.Unmarshal(row[6], &parts)
	})
	if err != nil || kind == "own" {
		return "", err
	}
	if extension != "" {
		return "", r.extension(ctx, extension)
	}
	full := Name{Schema: schema, Table: name}
	switch {
	case kind == "row":
		return "the row type of table " + full.String(), nil
	case kind == "base":
		return "type " + full.String(), nil
	case missing != "":
		return "type " + full.String() + " with " + missing, nil
	}
	for _, part := range parts {
		if why, err = r.typ(ctx, part.Type); why == "" && err == nil && part.Collation != "0" {
			why, err = r.collation(ctx, part.Collation)
		}
		if why != "" || err != nil {
			return why, err
		}
	}
	if kind == "array" || kind == "multirange" {
		return "", nil // made with what it is of
	}
	if kind == DomainType {
		checks, err := r.domainChecks(ctx, oid, full)
		if err != nil {
			return "", err
		}
		body += checks
	}
	r.out.Types = append(r.out.Types, Type{Name: full.String(), Kind: kind, Body: body})
	return "", nil
}

// collateSQL is the collation of a type or column where it is another than that of the type it has.
func collateSQL(collation, own string) string {
	return `coalesce((SELECT ' COLLATE ' || pg_catalog.quote_ident(cn.nspname) || '.' || pg_catalog.quote_ident(l.collname) FROM pg_collation l JOIN pg_namespace cn ON cn.oid = l.collnamespace
		WHERE l.oid = ` + collation + ` AND ` + collation + ` <> ` + own + `), '')`
}

// domainChecks are a domain's constraints. One that needs what is not made is left out: the domain takes more than at the source then, and nothing that the source has is refused.
func (r *defining) domainChecks(ctx context.Context, oid string, name Name) (string, error) {
	var out strings.Builder
	type check struct{ oid, name, quoted, text string }
	var all []check
	err := each(ctx, r.c, `SELECT k.oid, k.conname, pg_catalog.quote_ident(k.conname), pg_catalog.pg_get_constraintdef(k.oid) FROM pg_constraint k WHERE k.contypid = $1::oid AND k.contype = 'c' ORDER BY k.conname`,
		[]Arg{text(oid)}, func(row [][]byte) error {
			all = append(all, check{string(row[0]), string(row[1]), string(row[2]), string(row[3])})
			return nil
		})
	if err != nil {
		return "", err
	}
	for _, c := range all {
		what := fmt.Sprintf("constraint %q of domain %s", c.name, name)
		n, err := r.needs(ctx, "pg_constraint", c.oid+" 0")
		if err != nil {
			return "", err
		}
		n.columns = nil
		switch why := r.lacks(n); {
		case why != "":
			r.leaveOut(what, why)
		case strings.HasSuffix(c.text, " NOT VALID"):
			r.out.LeftOut = append(r.out.LeftOut, what+": it is not validated at the source, so values there may break it")
		default:
			out.WriteString(" CONSTRAINT " + c.quoted + " " + c.text)
		}
	}
	return out.String(), nil
}

// collation puts one into the definition. why is not empty where that can't be.
func (r *defining) collation(ctx context.Context, oid string) (why string, err error) {
	if why, seen := r.made["collation "+oid]; seen {
		return why, nil
	}
	defer func() { r.made["collation "+oid] = why }()
	own, extension := true, ""
	var name Name
	var o struct { // what it is made of is called otherwise from version to version
		Provider      string `json:"collprovider"`
		Locale        string `json:"colllocale"`    // 17 and newer
		ICULocale     string `json:"colliculocale"` // 15 and 16
		Collate       string `json:"collcollate"`
		CType         string `json:"collctype"`
		Rules         string `json:"collicurules"`
		Deterministic bool   `json:"collisdeterministic"`
	}
	err = each(ctx, r.c, `SELECT l.oid < 16384, n.nspname, l.collname, coalesce(e.extname, ''), pg_catalog.to_jsonb(l) FROM pg_collation l JOIN pg_namespace n ON n.oid = l.collnamespace
			LEFT JOIN pg_depend x ON x.classid = 'pg_collation'::regclass AND x.objid = l.oid AND x.deptype = 'e' AND x.refclassid = 'pg_extension'::regclass LEFT JOIN pg_extension e ON e.oid = x.refobjid
		WHERE l.oid = $1::oid`, []Arg{text(oid)}, func(row [][]byte) error {
		own, name, extension = isTrue(row[0]), Name{Schema: string(row[1]), Table: string(row[2])}, string(row[3])
		return json.Unmarshal(row[4], &o)
	})
	switch {
	case err != nil:
		return "", err
	case extension != "":
		return "", r.extension(ctx, extension)
	case own:
		return "", nil
	}
	provider, ok := map[string]string{"i": "icu", "c": "libc", "b": "builtin"}[o.Provider]
	if !ok {
		return "collation " + name.String(), nil
	}
	body := "provider = " + provider
	locale := o.Locale + o.ICULocale
	if locale == "" && o.Collate == o.CType {
		locale = o.Collate
	}
	if locale != "" {
		body += ", locale = " + Literal(locale)
	} else {
		body += ", lc_collate = " + Literal(o.Collate) + ", lc_ctype = " + Literal(o.CType)
	}
	if o.Rules != "" {
		body += ", rules = " + Literal(o.Rules)
	}
	if !o.Deterministic {
		body += ", deterministic = false"
	}
	r.out.Types = append(r.out.Types, Type{Name: name.String(), Kind: CollationType, Body: body})
	return "", nil
}
