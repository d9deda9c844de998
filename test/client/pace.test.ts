import { afterEach, expect, it, vi } from 'vitest'
import { createPace } from '../../src/client/pace.ts'
import { UploadError } from '../../src/client/upload-error.ts'

afterEach(() => vi.restoreAllMocks())

it('a wait that is over while it begins does not become a long one', async () => {
  let now = 0
  vi.spyOn(performance, 'now').mockImplementation(() => now++)
  for (let retryDelay = 1; retryDelay < 30; retryDelay++) {
    const pace = createPace({ retryDelay, maxRetryDelay: retryDelay }, () => {})
    let left = 3
    const request = async () => {
      left -= 1
      if (left > 0) throw new UploadError('Later.', { code: 'LATER', retryable: true })
    }
    const late = new Promise((_, reject) => setTimeout(reject, 2000, new Error(`with a delay of ${retryDelay} ms`)))
    await Promise.race([pace.repeat(request, new AbortController().signal), late])
    expect(left).toBe(0)
  }
})
