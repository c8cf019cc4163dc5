// Package docs holds no code, only the tests of the documents: every policy in them is one that the parser takes, every command and flag
// one that the built programs have, every link one that leads somewhere, and every block of commands, SQL or settings runs, against two real
// databases and a broker, as a reader would run it.
//
// A document is a session: its blocks run from top to bottom in one folder, and what one exports the next has. What a block needs beyond what the
// reader has by then stands before it in a comment that is not shown:
//
//	<!-- run: COMMAND -->          run by the shell before the block
//	<!-- each: COMMAND -->         the block's lines are alternatives, each run behind the command
//	<!-- found -->                 our commands may end with 1 in the block: they find something
//	<!-- typed: TEXT -->           what one types when our commands ask
//	<!-- until: TEXT -->           the block is run again until it prints the text
//	<!-- output -->                the text block that follows is what the block before it prints, numbers and spaces aside
//	<!-- setup: tables|role -->     SQL of the quick start that makes the databases of the other documents too
//	<!-- values -->                the YAML that follows are values of the chart
//	<!-- part of: FILE -->         the Go code is a part of this file, which is compiled and run
//
// Blocks that are indented, or fenced as sh, run in bash. What is neither run nor checked in another way, by what its fence says it is, fails.
package docs
