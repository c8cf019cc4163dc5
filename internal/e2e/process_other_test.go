//go:build unix && !linux

package e2e

import "syscall"

// dieWithUs has nothing to offer here: after a kill -9 of the tests their processes stay.
func dieWithUs() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
