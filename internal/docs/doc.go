// Package docs holds no code, only the tests of the documents: every policy in them is one that the parser takes, every command and flag
// one that the built programs have, every link one that leads somewhere.
package docs
