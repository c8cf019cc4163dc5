// Package tricklepb is what travels between a publisher and its replicas, generated from proto/trickle/v1.
//
// It decides the wire format and nothing else; package message says what of it may be believed. Fields are added, never renumbered. Getters
// of what is absent give zero values, so reading a message never fails.
package tricklepb
