package command

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/trickle-verify/trickle/policy"
)

// Policy is `policy validate`, `policy schema` and `policy plan`.
func Policy(f *Flags) *cobra.Command {
	c := &cobra.Command{Use: "policy", Short: "Check policy files, print their JSON Schema, work out what one comes to", Args: cobra.NoArgs}
	c.AddCommand(&cobra.Command{
		Use: "validate FILE...", Short: "Check policy files: every fault with line and column; exit status 1 when there is one",
		Long: "validate checks each file as run would read it, and opens nothing else. Warnings are of what is allowed and perhaps not meant; they change no exit status.\n\n" +
			"Exit status: 0 all are valid, 1 at least one is not, 2 one can't be read.",
		Args: func(_ *cobra.Command, files []string) error {
			if len(files) == 0 {
				return errors.New("trickle policy validate takes policy files: name at least one FILE")
			}
			return nil
		},
		Example: "  trickle policy validate policy.yaml\n  trickle policy validate --format json policies/*.yaml",
		RunE:    func(c *cobra.Command, files []string) error { return validate(c, f, files) },
	}, &cobra.Command{
		Use: "schema", Short: "Print the JSON Schema of the policy, for editors", Args: cobra.NoArgs,
		Example: "  trickle policy schema > trickle-policy.schema.json",
		RunE: func(c *cobra.Command, _ []string) error {
			schema, err := policy.JSONSchema()
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(c.OutOrStdout(), string(schema))
			return err
		},
	}, planCommand(f))
	return c
}

type verdict struct {
	File     string           `json:"file"`
	Valid    bool             `json:"valid"`
	Problems []policy.Problem `json:"problems"`
	Warnings []policy.Warning `json:"warnings"`
}

func validate(c *cobra.Command, f *Flags, files []string) error {
	var found bool
	verdicts := make([]verdict, 0, len(files))
	for _, file := range files {
		_, warnings, err := policy.Load(file)
		v := verdict{File: file, Valid: err == nil, Problems: []policy.Problem{}, Warnings: append([]policy.Warning{}, warnings...)}
		var problems policy.Errors
		switch {
		case errors.As(err, &problems):
			v.Problems = append(v.Problems, problems...)
		case err != nil:
			return err
		}
		found = found || !v.Valid
		verdicts = append(verdicts, v)
	}
	if f.JSON() {
		if err := PrintJSON(c.OutOrStdout(), verdicts); err != nil {
			return err
		}
	} else {
		for _, v := range verdicts {
			for _, p := range v.Problems {
				fmt.Fprintln(c.ErrOrStderr(), p)
			}
			for _, w := range v.Warnings {
				fmt.Fprintln(c.ErrOrStderr(), "warning:", w)
			}
			if v.Valid {
				fmt.Fprintf(c.OutOrStdout(), "%s: valid\n", v.File)
			}
		}
	}
	if found {
		return ErrFound
	}
	return nil
}
