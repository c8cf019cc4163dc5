//go:build !linux

package pgtest

import "github.com/trickle-verify/trickle/internal/testbed"

func inMemory(o testbed.Options) testbed.Options { return o }
