// Prints what AsyncAPI's parser finds in a document: its errors, and the payload of each message by channel and title.
const { Parser, fromFile } = require('@asyncapi/parser');

const ERROR = 0;

async function main() {
  const { document, diagnostics } = await fromFile(new Parser(), process.argv[2]).parse();
  const errors = diagnostics.filter((found) => found.severity === ERROR);
  const channels = {};
  for (const channel of document ? document.channels().all() : []) {
    const messages = channel.messages().all().map((message) => [message.title(), message.payload().json()]);
    channels[channel.address()] = Object.fromEntries(messages);
  }
  console.log(JSON.stringify({ errors: errors.map(({ path, message }) => `${path.join('.')}: ${message}`), channels }));
}

main();
