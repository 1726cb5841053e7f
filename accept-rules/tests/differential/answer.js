// Answers each line of the input, a JSON value, with a line: what the function makes of it, or null
// where it throws.
'use strict'

const readline = require('readline')

module.exports = (answer) => {
  readline.createInterface({ input: process.stdin }).on('line', (line) => {
    let answered = null
    try {
      answered = answer(JSON.parse(line))
    } catch (error) {
      // Nothing that the package can read.
    }
    process.stdout.write(JSON.stringify(answered) + '\n')
  })
}
