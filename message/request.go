package message

import "github.com/trickle-verify/trickle/message/tricklepb"

// RequestName names what a request of a replica asks for, as traces and metrics have it; empty for a message that is no request that this version knows.
func RequestName(env *tricklepb.Envelope) string {
	switch env.GetBody().(type) {
	case *tricklepb.Envelope_HelloRequest:
		return "hello"
	case *tricklepb.Envelope_KeyDigestsRequest:
		return "key_digests"
	case *tricklepb.Envelope_RefetchRequest:
		return "refetch"
	case *tricklepb.Envelope_CopyRequest:
		return "copy"
	case *tricklepb.Envelope_BoundariesRequest:
		return "boundaries"
	case *tricklepb.Envelope_PathRequest:
		return "path"
	default:
		return ""
	}
}
