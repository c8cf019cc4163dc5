package docs

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// elsewhere stands in for what can't be had where the tests run: a cluster, containers, an init system. It knows the commands that the documents
// use and refuses the rest, so that a new one is thought about; what runs inside of a container runs here.
func (s *session) elsewhere(ctx context.Context, c call) answer {
	switch c.Tool {
	case "docker":
		return s.docker(ctx, c)
	case "helm":
		return s.helm(ctx, c)
	case "kubectl":
		return s.kubectl(ctx, c)
	default:
		return failed("%s %s: nothing stands in for that yet", c.Tool, strings.Join(c.Args, " "))
	}
}

// docker compose, in deploy/compose.
func (s *session) docker(ctx context.Context, c call) answer {
	if len(c.Args) == 2 && c.Args[0] == "push" && strings.Contains(c.Args[1], ":") {
		return answer{}
	}
	if i := slices.Index(c.Args, "--file"); i > 0 && i+1 < len(c.Args) && (c.Args[0] == "build" || c.Args[0] == "buildx" && c.Args[1] == "bake") {
		if _, err := os.Stat(filepath.Join(root, c.Args[i+1])); err != nil {
			return failed("%v", err)
		}
		return answer{} // deploy/docker tests what it would be given
	}
	if len(c.Args) < 2 || c.Args[0] != "compose" {
		return failed("docker %s: nothing stands in for that yet", strings.Join(c.Args, " "))
	}
	if len(c.Args) > 4 && c.Args[1] == "--file" && c.Args[2] == "deploy/compose/docker-compose.yaml" {
		c.Args = append([]string{c.Args[0]}, c.Args[3:]...)
	}
	composition, err := os.ReadFile(filepath.Join(root, "deploy", "compose", "docker-compose.yaml"))
	if err != nil {
		return failed("%v", err)
	}
	switch args := c.Args[2:]; c.Args[1] {
	case "up", "down":
		for _, a := range args {
			if !slices.Contains([]string{"--build", "--detach", "--volumes"}, a) {
				return failed("docker compose %s has no %s", c.Args[1], a)
			}
		}
		return answer{}
	case "exec":
		if len(args) < 2 || !strings.Contains(string(composition), "\n  "+args[0]+":\n") {
			return failed("the composition has no such service: %v", args)
		}
		return s.inContainer(ctx, call{Tool: args[1], Args: args[2:], Env: c.Env, Dir: c.Dir})
	default:
		return failed("docker compose %s: nothing stands in for that yet", c.Args[1])
	}
}

func (s *session) inContainer(ctx context.Context, c call) answer {
	switch c.Tool {
	case "psql":
		return s.real(ctx, filepath.Join(s.rig.postgres, "psql"), call{Args: append([]string{"-X", "-d", s.rig.replica.DSN(database)}, psqlCommands(c.Args)...), Env: c.Env, Dir: c.Dir})
	case "trickle", "trickle-consumer":
		c.Env = append(c.Env, "TRICKLE_BROKERS="+s.broker)
		return s.ours(ctx, c)
	default:
		return failed("no container has %s", c.Tool)
	}
}

// psqlCommands are the commands that psql was given with -c.
func psqlCommands(args []string) []string {
	var out []string
	for i, a := range args {
		if a == "-c" && i+1 < len(args) {
			out = append(out, a, args[i+1])
		}
	}
	return out
}
