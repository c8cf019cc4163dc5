package docs

import (
	"context"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/trickle-verify/trickle/internal/testbed/helm"
)

// cluster stands in for one: what Helm would send there is rendered by the real Helm, and kubectl may speak of what was rendered and of nothing else.
type cluster struct {
	release string
	values  []string        // of the installation
	objects map[string]bool // kind/name, as kubectl writes it
}

const chart = "deploy/helm/trickle"

// helm installs for rendering alone, without a cluster.
func (s *session) helm(ctx context.Context, c call) answer {
	if len(c.Args) == 0 {
		return failed("helm: of what?")
	}
	var flags, names []string
	for i := 1; i < len(c.Args); i++ {
		switch a := c.Args[i]; {
		case slices.Contains([]string{"--set", "--set-string", "--values", "-f", "--namespace", "-n", "--timeout", "--destination"}, a) && i+1 < len(c.Args):
			i++
			value := c.Args[i]
			if a == "-f" || a == "--values" {
				value = filepath.Join(c.Dir, value)
			}
			flags = append(flags, a, value)
		case strings.HasPrefix(a, "-"):
			flags = append(flags, a)
		case a == chart:
			names = append(names, filepath.Join(root, chart))
		default:
			names = append(names, a)
		}
	}
	without := func(drop ...string) []string {
		return slices.DeleteFunc(slices.Clone(flags), func(f string) bool { return slices.Contains(drop, f) })
	}
	switch c.Args[0] {
	case "install", "template", "upgrade":
		if len(names) != 2 {
			return failed("helm %s takes a name and a chart, and got %v", c.Args[0], names)
		}
		flags = without("--wait", "--install", "--create-namespace")
		if again := slices.DeleteFunc(slices.Clone(flags), func(f string) bool { return f == "--reset-then-reuse-values" }); len(again) < len(flags) {
			if s.cluster.release != names[0] {
				return failed("there is no release %s to go on from", names[0])
			}
			flags = append(slices.Clone(s.cluster.values), again...)
		}
		out, err := helm.Run(ctx, append([]string{"template", names[0], names[1]}, flags...)...)
		if err != nil {
			return failed("%v", err)
		}
		if c.Args[0] != "template" {
			s.cluster = cluster{release: names[0], values: flags, objects: objects(out)}
			return answer{}
		}
		return answer{Stdout: out}
	case "lint":
		out, err := helm.Run(ctx, append([]string{"lint"}, append(names, flags...)...)...)
		if err != nil {
			return failed("%v", err)
		}
		return answer{Stdout: out}
	case "test", "rollback", "history", "uninstall", "status":
		if len(names) == 0 || names[0] != s.cluster.release {
			return failed("helm %s: there is no release %v", c.Args[0], names)
		}
		for _, f := range without("--logs", "--wait", "--namespace", "-n") {
			if strings.HasPrefix(f, "-") {
				return failed("helm %s has no %s", c.Args[0], f)
			}
		}
		return answer{}
	}
	return failed("helm %s: nothing stands in for that yet", c.Args[0])
}

var (
	kindLine = regexp.MustCompile(`(?m)^kind: (\w+)$`)
	nameLine = regexp.MustCompile(`(?m)^  name: "?([^"\s]+)"?$`)
)

func objects(rendered string) map[string]bool {
	out := map[string]bool{}
	for doc := range strings.SplitSeq(rendered, "\n---\n") {
		kind, name := kindLine.FindStringSubmatch(doc), nameLine.FindStringSubmatch(doc)
		if kind == nil || name == nil {
			continue
		}
		id := strings.ToLower(kind[1])
		if id == "deployment" {
			id = "deploy"
		}
		out[id+"/"+name[1]] = true
	}
	return out
}

// kubectl knows the objects of the release, and runs what is run in a pod here.
func (s *session) kubectl(ctx context.Context, c call) answer {
	args, inside := c.Args, []string(nil)
	if i := slices.Index(args, "--"); i >= 0 {
		args, inside = args[:i], args[i+1:]
	}
	var names []string
	for i := 0; i < len(args); i++ {
		switch a := args[i]; {
		case slices.Contains([]string{"--namespace", "-n", "--selector", "-l", "--tail"}, a):
			i++
		case !strings.HasPrefix(a, "-"):
			names = append(names, a)
		}
	}
	does := strings.Join(names[:min(2, len(names))], " ")
	object := func(id string) error {
		if !s.cluster.objects[id] {
			return fmt.Errorf("kubectl %s: the release has no %s, only %v", does, id, s.cluster.objects)
		}
		return nil
	}
	var err error
	switch {
	case does == "create secret" && len(names) == 4 && names[2] == "generic" && strings.Contains(strings.Join(args, " "), " --from-"):
	case does == "get pods", does == "get configmap":
	case (does == "rollout status" || does == "rollout restart") && len(names) == 3:
		err = object(names[2])
	case does == "edit configmap" && len(names) == 3:
		err = object("configmap/" + names[2])
	case len(names) > 1 && (names[0] == "logs" || names[0] == "port-forward" || names[0] == "describe"):
		err = object(names[1])
	case len(names) == 2 && names[0] == "exec" && len(inside) > 0:
		if err = object(names[1]); err == nil {
			c.Env = append(c.Env, "TRICKLE_POLICY="+filepath.Join(s.dir, "orders.yaml"), "TRICKLE_SOURCE_DSN="+s.rig.source.DSN(database), "TRICKLE_REPLICA_DSN="+s.rig.replica.DSN(database))
			return s.inContainer(ctx, call{Tool: inside[0], Args: inside[1:], Env: c.Env, Dir: c.Dir})
		}
	default:
		err = fmt.Errorf("kubectl %s: nothing stands in for that yet", strings.Join(c.Args, " "))
	}
	if err != nil {
		return failed("%v", err)
	}
	return answer{}
}
