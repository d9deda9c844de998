export { createUpload, createUploadGroup, uploadFile } from './client/node/client.ts'
export type * from './client/types.ts'
export { UploadError } from './client/upload-error.ts'
