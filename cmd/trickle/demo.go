package main

import (
	"errors"

	"github.com/spf13/cobra"

	"github.com/trickle-verify/trickle/internal/command"
)

func demoCommand(*command.Flags) *cobra.Command {
	return &cobra.Command{Use: "demo", Hidden: true, RunE: func(*cobra.Command, []string) error { return errors.New("demo") }}
}
