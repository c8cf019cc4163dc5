package command

import (
	"bufio"
	"context"
	"io"
	"os"
	"strings"

	"golang.org/x/term"
)

// OnTerminal tells whether a person is at the other end.
func OnTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// Confirmed waits for a line and tells whether it says yes.
func Confirmed(ctx context.Context, in io.Reader) (bool, error) {
	type answer struct {
		line string
		err  error
	}
	got := make(chan answer, 1)
	go func() { // a read from a terminal can't be broken off: it ends with the process
		line, err := bufio.NewReader(in).ReadString('\n')
		got <- answer{line, err}
	}()
	select {
	case <-ctx.Done():
		return false, context.Cause(ctx)
	case a := <-got:
		if a.err != nil && a.line == "" {
			return false, nil // the end of the input is no yes
		}
		word := strings.ToLower(strings.TrimSpace(a.line))
		return word == "y" || word == "yes", nil
	}
}
