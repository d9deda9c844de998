/** Answers of S3 are small. One that is not is cut off before the SDK parses it, which would hold up everything else. */
import { type Readable, Transform } from 'node:stream'
import type { S3Client } from '@aws-sdk/client-s3'
import { ReceiptError } from './s3-errors.ts'

/** A list of 1000 parts with checksums has less than half a MiB, bytes. */
const largest = 4 * 1024 * 1024

/** For a client of our own. What is read of objects is bounded by whoever reads it. */
export function limitAnswers(client: S3Client): void {
  client.middlewareStack.add(
    (next, context) => async (args) => {
      const result = await next(args)
      const response = result.response as { body?: unknown }
      if (context.commandName !== 'GetObjectCommand' && isStream(response.body)) response.body = limited(response.body)
      return result
    },
    // Before the answer is parsed.
    { step: 'deserialize', priority: 'low', name: 'nexusUploaderAnswerLimit' },
  )
}

function isStream(body: unknown): body is Readable {
  return typeof (body as Readable | null | undefined)?.pipe === 'function'
}

function limited(body: Readable): Readable {
  let size = 0
  const gate = new Transform({
    transform(data: Buffer, _encoding, done) {
      size += data.length
      if (size <= largest) done(null, data)
      else done(new ReceiptError(`the answer has more than ${largest} bytes`))
    },
  })
  body.on('error', (error) => gate.destroy(error))
  gate.on('close', () => body.destroy())
  return body.pipe(gate)
}
