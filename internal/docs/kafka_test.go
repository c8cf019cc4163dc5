package docs

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// kafkaTool does what Kafka's own tools do, as far as the documents use them, over the same protocol: a JVM for each line would take minutes.
func kafkaTool(ctx context.Context, c call) answer {
	options, err := kafkaOptions(c.Args)
	if err != nil {
		return failed("%s: %v", c.Tool, err)
	}
	client, err := kgo.NewClient(kgo.SeedBrokers(options.one("--bootstrap-server")))
	if err != nil {
		return failed("%s: %v", c.Tool, err)
	}
	defer client.Close()
	admin := kadm.NewClient(client)
	switch {
	case c.Tool == "kafka-topics.sh" && options.has("--create"):
		err = createTopic(ctx, admin, options)
	case c.Tool == "kafka-topics.sh" && options.has("--alter"):
		err = addPartitions(ctx, admin, options)
	case c.Tool == "kafka-acls.sh" && options.has("--add"):
		err = allow(options)
	case c.Tool == "kafka-configs.sh" && options.has("--alter"):
		err = alterTopic(ctx, admin, options)
	case c.Tool == "kafka-consumer-groups.sh" && options.has("--delete-offsets"):
		_, err = admin.DeleteOffsets(ctx, options.one("--group"), kadm.TopicsSet{options.one("--topic"): {}})
	default:
		err = fmt.Errorf("nothing stands in for %v yet", c.Args)
	}
	if err != nil {
		return failed("%s: %v", c.Tool, err)
	}
	return answer{}
}

// options are those of one call, in Kafka's way: each name with its values.
type options map[string][]string

func (o options) has(name string) bool { return len(o[name]) > 0 }

func (o options) one(name string) string {
	if len(o[name]) == 0 {
		return ""
	}
	return o[name][0]
}

func kafkaOptions(args []string) (options, error) {
	bare := map[string]bool{"--create": true, "--alter": true, "--add": true, "--delete-offsets": true}
	valued := map[string]bool{"--bootstrap-server": true, "--command-config": true, "--topic": true, "--partitions": true, "--config": true, "--add-config": true, "--group": true,
		"--allow-principal": true, "--operation": true, "--resource-pattern-type": true, "--entity-type": true, "--entity-name": true}
	out := options{}
	for i := 0; i < len(args); i++ {
		switch name := args[i]; {
		case bare[name]:
			out[name] = append(out[name], "")
		case valued[name] && i+1 < len(args):
			i++
			out[name] = append(out[name], args[i])
		default:
			return nil, fmt.Errorf("no option %s", name)
		}
	}
	return out, nil
}

func createTopic(ctx context.Context, admin *kadm.Client, o options) error {
	partitions, err := strconv.Atoi(o.one("--partitions"))
	if err != nil {
		return err
	}
	settings := map[string]*string{}
	for _, s := range o["--config"] {
		name, value, ok := strings.Cut(s, "=")
		if !ok {
			return fmt.Errorf("--config %s has no value", s)
		}
		settings[name] = &value
	}
	_, err = admin.CreateTopic(ctx, int32(partitions), 1, settings, o.one("--topic"))
	return err
}

func addPartitions(ctx context.Context, admin *kadm.Client, o options) error {
	partitions, err := strconv.Atoi(o.one("--partitions"))
	if err != nil {
		return err
	}
	replies, err := admin.UpdatePartitions(ctx, partitions, o.one("--topic"))
	if err != nil {
		return err
	}
	return replies.Error()
}

// allow checks what a broker with an authorizer would; the one here has none.
func allow(o options) error {
	if principal := o.one("--allow-principal"); !strings.HasPrefix(principal, "User:") {
		return fmt.Errorf("a principal is User:name, not %s", principal)
	}
	if len(o["--topic"])+len(o["--group"]) == 0 || len(o["--operation"]) == 0 {
		return fmt.Errorf("it names no resource, or no operation")
	}
	for _, name := range o["--operation"] {
		if _, err := kmsg.ParseACLOperation(name); err != nil {
			return err
		}
	}
	if pattern := o.one("--resource-pattern-type"); pattern != "" {
		if _, err := kmsg.ParseACLResourcePatternType(pattern); err != nil {
			return err
		}
	}
	return nil
}

func alterTopic(ctx context.Context, admin *kadm.Client, o options) error {
	if o.one("--entity-type") != "topics" {
		return fmt.Errorf("nothing stands in for entities of type %s yet", o.one("--entity-type"))
	}
	var changes []kadm.AlterConfig
	for _, s := range o["--add-config"] {
		name, value, ok := strings.Cut(s, "=")
		if !ok {
			return fmt.Errorf("--add-config %s has no value", s)
		}
		changes = append(changes, kadm.AlterConfig{Op: kadm.SetConfig, Name: name, Value: &value})
	}
	replies, err := admin.AlterTopicConfigs(ctx, changes, o.one("--entity-name"))
	if err != nil {
		return err
	}
	for _, r := range replies {
		if r.Err != nil {
			return r.Err
		}
	}
	return nil
}
