package e2e

import "syscall"

// dieWithUs has a process killed when the thread that started it ends, however that comes about.
func dieWithUs() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
}
